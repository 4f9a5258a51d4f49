//! What is mounted, as the kernel tells it in `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A mount as this process sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
    pub(crate) kind: String,
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// If the kernel's list cannot be read.
pub(crate) fn list() -> Result<Vec<Mount>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse).collect())
}

/// Unmounts everything at or below a folder, what was mounted last first.
///
/// # Errors
/// If a mount cannot be detached.
pub(crate) async fn detach_below(folder: &Path) -> Result<()> {
    for mount in list()?.into_iter().rev().filter(|mount| mount.point.starts_with(folder)) {
        let mut umount = crate::command::command("umount", ["--lazy"]);
        crate::command::run(umount.arg(&mount.point)).await?;
    }
    Ok(())
}

/// A line such as `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: the point is field 5, and the
/// file system's name follows the lone dash after a varying number of optional fields.
fn parse(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let point = front.split(' ').nth(4)?;
    Some(Mount { point: unescape(point).into(), kind: back.split(' ').next()?.to_owned() })
}

/// The kernel writes blanks and backslashes in paths as three octal digits.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escaped, plain)| path.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_and_without_optional_fields() {
        let plain = parse("36 35 98:0 / /mnt/with\\040blank rw,noatime - ext3 /dev/root rw,errors=continue");
        assert_eq!(plain, Some(Mount { point: "/mnt/with blank".into(), kind: "ext3".into() }));
        let shared = parse("30 23 0:26 / /sys/fs/cgroup/cpu rw shared:9 master:1 - cgroup cgroup rw,cpu").unwrap();
        assert_eq!((shared.point, shared.kind.as_str()), ("/sys/fs/cgroup/cpu".into(), "cgroup"));
        assert_eq!(parse("nonsense"), None);
    }
}
