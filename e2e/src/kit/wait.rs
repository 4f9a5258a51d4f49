//! Waiting for a cluster to come to a state, with the last reason why it had not.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Asks until the answer is `Ok`, for two minutes at most; then fails with what was awaited and the last answer.
pub async fn eventually<T, F>(what: &str, ask: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    eventually_within(what, Duration::from_secs(120), ask).await
}

/// As [`eventually`], with a limit of one's own.
pub async fn eventually_within<T, F>(what: &str, limit: Duration, ask: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(last) if Instant::now() >= deadline => {
                bail!("waited {} s for {what}, in vain; the last answer was: {last:#}", limit.as_secs())
            }
            Err(_) => sleep(Duration::from_millis(300)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn it_asks_until_the_answer_is_good() {
        let asked = AtomicU32::new(0);
        let answer = eventually("the third answer", || async {
            let n = asked.fetch_add(1, Ordering::Relaxed);
            anyhow::ensure!(n >= 2, "answer {n}");
            Ok(n)
        })
        .await;
        assert_eq!(answer.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_with_the_last_reason() {
        let answer: Result<()> =
            eventually_within("rain", Duration::from_secs(5), || async { bail!("the sky is blue") }).await;
        let message = answer.unwrap_err().to_string();
        assert!(message.contains("rain") && message.contains("the sky is blue"), "{message}");
    }
}
