//! `privacy.ip` at the edge: what is stored or passed on of addresses, the caller's and those inside records.
//!
//! An address that may not be kept becomes `0`, which tells the vendor not to look the request's address up instead
//! (contract §3).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::IpPolicy;
use crate::mixpanel::wire::Raw;

const NONE: &str = "0";

/// What of the caller's address may leave the edge.
pub fn allowed(address: IpAddr, policy: IpPolicy) -> Option<IpAddr> {
    match policy {
        IpPolicy::Keep => Some(address),
        IpPolicy::Truncate => Some(truncate(address)),
        IpPolicy::Drop => None,
    }
}

/// The JSON value to store for the caller's address.
pub fn of_caller(address: IpAddr, policy: IpPolicy) -> String {
    allowed(address, policy).map_or_else(|| NONE.to_owned(), |address| format!("\"{address}\""))
}

/// The JSON value to store instead of an address that came in a record; `None` when it may stay.
pub fn of_record(raw: Raw<'_>, policy: IpPolicy) -> Option<Cow<'static, str>> {
    let says_nobody = matches!(raw.text(), "0" | "\"0\"" | "null" | "\"\"" | "false");
    if policy == IpPolicy::Keep || says_nobody {
        return None;
    }
    let address: Option<IpAddr> = raw.as_str().and_then(|text| text.trim().parse().ok());
    match (policy, address) {
        (IpPolicy::Truncate, Some(address)) => Some(Cow::Owned(format!("\"{}\"", truncate(address)))),
        // Not readable as an address: it cannot be cut short, so it may not stay.
        _ => Some(Cow::Borrowed(NONE)),
    }
}

/// The last octet of IPv4, the last 80 bits of IPv6 set to zero.
fn truncate(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_keeps_the_network_only() {
        let truncated = |text: &str| truncate(text.parse().unwrap()).to_string();
        assert_eq!(truncated("203.0.113.77"), "203.0.113.0");
        assert_eq!(truncated("2001:db8:1:2:3:4:5:6"), "2001:db8:1::");
        assert_eq!(truncated("::ffff:203.0.113.77"), "203.0.113.0");
    }
}
