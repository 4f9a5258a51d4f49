//! The processor time of a process, as the kernel counts it.

use std::fs;

use anyhow::{Context, Result};

/// Processor time of a process since its start, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Cpu {
    pub(super) user: f64,
    pub(super) system: f64,
}

impl Cpu {
    /// Of all threads of a process, those included that have ended.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let stat =
            fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} has ended"))?;
        Self::parse(&stat, rustix::param::clock_ticks_per_second() as f64).context("/proc/<pid>/stat has another form")
    }

    /// `stat` of proc(5): `utime` and `stime` are the 14th and 15th field, in ticks.
    fn parse(stat: &str, ticks: f64) -> Option<Self> {
        // The second field is a name in parentheses, which may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let mut next = || Some(fields.next()?.parse::<f64>().ok()? / ticks * 1e6);
        Some(Self { user: next()?, system: next()? })
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }

    pub(super) fn total(self) -> f64 {
        self.user + self.system
    }
}

impl std::iter::Sum for Cpu {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self { user: a.user + b.user, system: a.system + b.system })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 90 0 0 0 150 250 0 0 20 0 3 0 99 1 2 3";
        let cpu = Cpu::parse(stat, 100.0).unwrap();
        assert_eq!(cpu, Cpu { user: 1_500_000.0, system: 2_500_000.0 });
        assert!(Cpu::parse("7 a S", 100.0).is_none());
        assert!(Cpu::of(std::process::id()).is_ok());
    }
}
