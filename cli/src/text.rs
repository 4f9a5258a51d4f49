//! How text is laid out: what may stand on a terminal, columns, spans of time and numbers.

/// What may go to a terminal: no control characters but ends of lines, and none that turns the direction of writing around or takes no room.
/// Names and reasons come from a cluster, where others write as well.
pub(crate) fn printable(text: &str) -> String {
    let hides =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    text.chars().filter(|c| !hides(*c)).map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// The same as one line.
pub(crate) fn one_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}

/// At most `width` characters, with a sign that something is missing.
pub(crate) fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let mut cut: String = line.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Lines of at most `width` characters, broken between words where that is possible.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + rest.len() > width {
            lines.push(String::new());
            used = 0;
        }
        while !rest.is_empty() {
            if used == width {
                lines.push(String::new());
                used = 0;
            }
            let Some(line) = lines.last_mut() else { break };
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            let taken = rest.len().min(width - used);
            line.extend(rest.drain(..taken));
            used += taken;
        }
    }
    lines
}

/// Columns under their heads, as wide as what is in them. The last one is as long as it is, or ends at `width`.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]], width: Option<usize>) -> String {
    let heads = heads.map(str::to_owned);
    let rows: Vec<[String; N]> =
        std::iter::once(&heads).chain(rows).map(|row| row.each_ref().map(|cell| one_line(cell))).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let line = cells.join("   ");
        let line = line.trim_end();
        text.push_str(&width.map_or_else(|| line.to_owned(), |width| cut(line, width)));
        text.push('\n');
    }
    text
}

/// As kubectl says it: the longer ago, the coarser. Clocks differ, so what is to come counts as now.
pub(crate) fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let both = |number: i64, unit: char, rest: i64, smaller: char| {
        if rest == 0 { format!("{number}{unit}") } else { format!("{number}{unit}{rest}{smaller}") }
    };
    match seconds.max(0) {
        seconds if seconds < 2 * MINUTE => format!("{seconds}s"),
        seconds if seconds < 10 * MINUTE => both(seconds / MINUTE, 'm', seconds % MINUTE, 's'),
        seconds if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        seconds if seconds < 8 * HOUR => both(seconds / HOUR, 'h', seconds % HOUR / MINUTE, 'm'),
        seconds if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        seconds => format!("{}d", seconds / DAY),
    }
}

/// With a comma between thousands.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_taken_out() {
        let hostile = "a\u{1b}[2Jb\u{7}\r\nc\td\u{9b}e\u{202e}f\u{200b}é";
        assert_eq!(printable(hostile), "a [2Jb  \nc d efé");
        assert_eq!(one_line("a\nb"), "a b");
    }

    #[test]
    fn long_lines_are_cut_or_broken_between_words() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("abc def", 3), ["abc", "def"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn columns_stand_under_their_heads() {
        let rows = [["a", "1", "long\nwords"], ["bcd", "", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["N", "NUMBER", "WHY"], &rows, Some(20)), "N     NUMBER   WHY\na     1        long…\nbcd\n");
    }

    #[test]
    fn spans_are_coarser_the_longer_they_are() {
        for (seconds, text) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (601, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 65, "3h1m"),
            (30 * 3600, "30h"),
            (50 * 3600, "2d"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567"), (-1_000, "-1,000")] {
            assert_eq!(grouped(number), text);
        }
    }
}
