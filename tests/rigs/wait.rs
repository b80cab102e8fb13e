//! Waiting for a condition, never for a time: it is asked for again and again, up to a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is asked for.
const EVERY: Duration = Duration::from_millis(10);

/// How long something is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    within: Duration,
    end: Instant,
}

impl Patience {
    /// From now on.
    pub fn new(within: Duration) -> Self {
        let end = Instant::now() + within;
        Self { within, end }
    }

    /// Waits for the next time to ask.
    ///
    /// # Errors
    ///
    /// When it is over, naming `what`.
    pub async fn pause(&self, what: &str) -> Result<()> {
        if self.end <= Instant::now() {
            bail!("{what}: not within {:?}", self.within);
        }
        tokio::time::sleep(EVERY).await;
        Ok(())
    }
}

/// Asks until there is an answer.
///
/// # Errors
///
/// When there is none `within` the time, naming `what`; and the first error that asking gives.
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let patience = Patience::new(within);
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        patience.pause(what).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_asks_until_there_is_an_answer() {
        let mut asked = 0;
        let answer = until("the third answer", Duration::from_secs(10), async || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn it_gives_up_and_says_what_did_not_come() {
        let never = until("rain", Duration::ZERO, async || Ok(None::<()>));
        let error = never.await.unwrap_err().to_string();
        assert!(error.starts_with("rain: not within"), "{error}");
    }
}
