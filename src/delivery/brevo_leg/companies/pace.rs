//! How the calls of an hour are spread over it. Pure.

use std::time::Duration;

use crate::vendor::budget::Limit;

/// Of a limit, what companies leave to others: looks at contact imports, the account.
const RESERVE: u64 = 10;

/// Whether companies may take one more call, `left` being left.
pub fn may_call(limit: Limit, left: u64) -> bool {
    left > limit.amount / RESERVE
}

/// How long the next debt waits, and collects more: not at all while more than half the limit is left, then what is
/// left is spread over an hour, so that it never runs out (CORE 14).
pub fn linger(limit: Limit, left: u64) -> Duration {
    if left > limit.amount / 2 {
        return Duration::ZERO;
    }
    limit.span / u32::try_from(left.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_is_spread() {
        let limit = Limit::per_hour(100);
        assert_eq!(linger(limit, 100), Duration::ZERO);
        assert_eq!(linger(limit, 51), Duration::ZERO);
        assert_eq!(linger(limit, 50).as_secs(), 72);
        assert_eq!(linger(limit, 25).as_secs(), 144);
        assert!(linger(limit, 0) <= limit.span);
        assert!(may_call(limit, 11) && !may_call(limit, 10));
    }

    #[test]
    fn an_hour_of_lingering_never_uses_the_hour_up() {
        let limit = Limit::per_hour(100);
        let (mut left, mut at) = (100, Duration::ZERO);
        while at < limit.span && may_call(limit, left) {
            left -= 1;
            at += linger(limit, left);
        }
        assert!(left > limit.amount / RESERVE, "{left} left after {at:?}");
    }
}
