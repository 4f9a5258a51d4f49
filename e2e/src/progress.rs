//! What a person reads while something takes long: one line when a step begins, one now and then while it goes on,
//! one when it is over. Entered through [`Step::begin`]; everything goes to standard error, so that standard output
//! stays free for results.

use std::fmt::Display;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often a step that goes on says so: often enough to see that nothing hangs, rarely enough to stay readable in
/// a CI log.
const REMINDER: Duration = Duration::from_secs(15);

/// A step of some length. It reminds of itself until [`Step::done`] is called or it is dropped.
#[derive(Debug)]
pub struct Step {
    label: String,
    began: Instant,
    reminder: JoinHandle<()>,
}

impl Step {
    /// Prints `label …` and starts the reminders. Needs a running tokio runtime.
    pub fn begin(label: impl Into<String>) -> Self {
        let label = label.into();
        let began = Instant::now();
        eprintln!("{label} …");
        let reminder = tokio::spawn({
            let label = label.clone();
            async move {
                loop {
                    tokio::time::sleep(REMINDER).await;
                    eprintln!("{label} … {}", elapsed(began.elapsed()));
                }
            }
        });
        Self { label, began, reminder }
    }

    /// Prints that the step is over and how long it took.
    pub fn done(self) {
        self.done_with("done");
    }

    /// Like [`Step::done`], with a result in place of the word "done".
    pub fn done_with(self, result: impl Display) {
        eprintln!("{}: {result} ({})", self.label, elapsed(self.began.elapsed()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.reminder.abort();
    }
}

/// A duration as a person says it: `0.4 s`, `45 s`, `6 min 3 s`.
pub fn elapsed(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(elapsed(Duration::from_millis(420)), "0.4 s");
        assert_eq!(elapsed(Duration::from_secs(45)), "45 s");
        assert_eq!(elapsed(Duration::from_secs(363)), "6 min 3 s");
    }
}
