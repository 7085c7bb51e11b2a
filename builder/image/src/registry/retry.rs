//! When to try again, and how long to wait before.

use std::hash::BuildHasher as _;
use std::time::{Duration, SystemTime};

/// How often and how fast requests that failed are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Times a request is made in all, at least 1.
    pub tries: u32,
    /// Wait before the second try; it doubles with each more.
    pub first_delay: Duration,
    /// Longest wait of our own choosing.
    pub max_delay: Duration,
    /// Longest wait that a registry may ask for with Retry-After.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 5,
            first_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(16),
            max_retry_after: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// How long to wait after `failures` failed tries, at least 1. `asked` is
    /// what the registry asked for.
    pub(crate) fn delay(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let backoff = self
            .first_delay
            .saturating_mul(1 << doublings)
            .min(self.max_delay);
        // Up to a quarter more, so that parallel layers do not return at once.
        let random = std::hash::RandomState::new().hash_one(failures) % 256;
        let jitter = backoff.mul_f64(random as f64 / 1024.0);
        let asked = asked.unwrap_or_default().min(self.max_retry_after);
        asked.max(backoff + jitter)
    }
}

/// Reads a Retry-After header (RFC 9110, 10.2.3): seconds or a date.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let policy = RetryPolicy {
            tries: 5,
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_millis(400),
            max_retry_after: Duration::from_secs(10),
        };
        for (failures, least) in [(1, 100), (2, 200), (3, 400), (4, 400), (u32::MAX, 400)] {
            let least = Duration::from_millis(least);
            let delay = policy.delay(failures, None);
            assert!(
                delay >= least && delay <= least.mul_f64(1.25),
                "{failures}: {delay:?}"
            );
        }
        assert_eq!(
            policy.delay(1, Some(Duration::from_secs(3))),
            Duration::from_secs(3)
        );
        assert_eq!(
            policy.delay(1, Some(Duration::from_secs(3600))),
            Duration::from_secs(10)
        );
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, seconds) in [
            ("0", Some(0)),
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(value, now), expected, "{value:?}");
        }
    }
}
