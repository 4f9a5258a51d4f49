//! How people read the rows.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::row::{Looks, Row};

/// As JSON.
pub(crate) fn write(file: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    std::fs::write(file, serde_json::to_vec_pretty(rows)?)
        .with_context(|| format!("{} cannot be written", file.display()))
}

/// As a table of Markdown, and which goals are missed.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| fails | weight | traffic, 1/s | varies | looks | good, rolled back | at margin, rolled back | at margin, promoted | good: requests | × best fixed | twice the margin: requests | × best fixed | common rule: good, rolled back | at margin, promoted | goals |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let setting = &row.setting;
        let traffic =
            if row.looks == Looks::Request && !setting.varies { "any".to_owned() } else { setting.traffic.to_string() };
        let weight =
            if row.looks == Looks::Release { "1–50 %".to_owned() } else { format!("{} %", setting.weight * 100.0) };
        let looks = match row.looks {
            Looks::Request => "request",
            Looks::Second => "second",
            Looks::Release => "request, five steps",
        };
        let ratio = |ratio: f64| if ratio > 0.0 { format!("{ratio:.2}") } else { String::new() };
        let goals = match (row.is_right(), row.is_quick()) {
            (true, Some(true) | None) => "met",
            (false, _) => "MISSED: wrong",
            (true, Some(false)) => "MISSED: slow",
        };
        let _ = writeln!(
            text,
            "| {} % | {weight} | {traffic} | {} | {looks} | {} | {} | {} | {:.0} | {} | {:.0} | {} | {} | {} | {goals} |",
            setting.rate * 100.0,
            if setting.varies { "swing, bursts" } else { "no" },
            percent(row.false_rollbacks),
            both(row.rollbacks_at_margin, row.chance_of_rollback_at_margin),
            both(row.false_promotions, row.chance_of_false_promotion),
            row.promotion.mean,
            ratio(row.promotion.ratio),
            row.rollback.mean,
            ratio(row.rollback.ratio),
            percent(row.rule[0]),
            percent(row.rule[1]),
        );
    }
    let undecided = rows.iter().filter(|row| row.promotion.reached + row.false_rollbacks < 1.0).count();
    let missed = rows.iter().filter(|row| !row.is_right() || row.is_quick() == Some(false)).count();
    let _ = writeln!(
        text,
        "\n{} rows; goals missed in {missed}; some good canaries left undecided in {undecided}",
        rows.len()
    );
    text
}

/// What was seen, and the chance where it is known more precisely.
fn both(seen: f64, chance: f64) -> String {
    if chance > 0.0 { format!("{} ({})", percent(chance), percent(seen)) } else { percent(seen) }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}
