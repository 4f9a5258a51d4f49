//! Which addresses a user's URL may lead to.
//!
//! Private ones may be: an issuer, a gate or a Prometheus within the cluster is common. What must never be reached through the operator is what trusts
//! whoever can reach it: the node and its neighbours on the link, the operator itself, and the metadata services of clouds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata and host services of clouds that are in none of the ranges below.
const METADATA_V4: [Ipv4Addr; 3] = [
    // Alibaba Cloud, in the range of carriers.
    Ipv4Addr::new(100, 100, 100, 200),
    // Azure's host, in a public range.
    Ipv4Addr::new(168, 63, 129, 16),
    // Oracle Cloud.
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: [Ipv6Addr; 2] = [
    // AWS.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    // Google Cloud.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Whether it may be asked; otherwise what it is.
pub fn allowed(address: IpAddr) -> Result<(), &'static str> {
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

fn v4(address: Ipv4Addr) -> Result<(), &'static str> {
    let [first, ..] = address.octets();
    if METADATA_V4.contains(&address) {
        Err("a metadata service")
    } else if first == 0 {
        // RFC 1122 section 3.2.1.3; Linux takes 0.0.0.0 for the loopback.
        Err("unspecified")
    } else if address.is_loopback() {
        Err("loopback")
    } else if address.is_link_local() {
        Err("link-local, where metadata services are")
    } else if address.is_multicast() {
        Err("multicast")
    } else if first >= 240 {
        Err("broadcast or reserved")
    } else {
        Ok(())
    }
}

fn v6(address: Ipv6Addr) -> Result<(), &'static str> {
    if METADATA_V6.contains(&address) {
        return Err("a metadata service");
    }
    if address.is_unspecified() {
        return Err("unspecified");
    }
    if address.is_loopback() {
        return Err("loopback");
    }
    if address.is_unicast_link_local() {
        return Err("link-local, where metadata services are");
    }
    if address.is_multicast() {
        return Err("multicast");
    }
    match address.segments() {
        // Site-local, which RFC 3879 took back.
        [0xfec0..=0xfeff, ..] => Err("site-local"),
        // Local NAT64 (RFC 8215) and Teredo (RFC 4380): which address is meant cannot be told, or is written in code.
        [0x64, 0xff9b, 1, ..] | [0x2001, 0, ..] => Err("a tunnel or a translation"),
        // IPv4 in another coat: compatible and mapped (RFC 4291 section 2.5.5), translated (RFC 2765), NAT64 (RFC 6052), 6to4 (RFC 3056) and
        // ISATAP (RFC 5214 section 6.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..]
        | [.., 0 | 0x200, 0x5efe, high, low] => v4(joined(high, low)),
        _ => Ok(()),
    }
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Result<(), &'static str> {
        allowed(text.parse().unwrap())
    }

    #[test]
    fn places_may_be_public_or_private() {
        for address in [
            "1.1.1.1",
            "10.96.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.201",
            "168.63.129.15",
            "169.253.255.255",
            "169.255.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "fd00::1",
            "fd00:ec2::253",
            "fc00::1",
            "64:ff9b::a00:1",
            "::ffff:10.0.0.1",
            "2002:a00:1::",
        ] {
            assert_eq!(of(address), Ok(()), "{address}");
        }
    }

    #[test]
    fn what_trusts_its_neighbours_is_out_of_reach_in_every_coat() {
        for (address, expected) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.169.254", "link-local, where metadata services are"),
            ("169.254.0.0", "link-local, where metadata services are"),
            ("100.100.100.200", "a metadata service"),
            ("168.63.129.16", "a metadata service"),
            ("192.0.0.192", "a metadata service"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "broadcast or reserved"),
            ("255.255.255.255", "broadcast or reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fe80::1", "link-local, where metadata services are"),
            ("febf::1", "link-local, where metadata services are"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("fd00:ec2::254", "a metadata service"),
            ("fd20:ce::254", "a metadata service"),
            ("2001::1", "a tunnel or a translation"),
            ("64:ff9b:1::a00:1", "a tunnel or a translation"),
        ] {
            assert_eq!(of(address), Err(expected), "{address}");
        }
    }

    proptest! {
        #[test]
        fn ipv4_is_judged_alike_in_every_coat(bits: u32, metadata in any::<prop::sample::Index>(), special: bool) {
            const SPECIAL: [u32; 5] = [0x7f00_0001, 0xa9fe_a9fe, 0x6464_64c8, 0, 0xffff_ffff];
            let bits = if special { *metadata.get(&SPECIAL) } else { bits };
            let plain = allowed(Ipv4Addr::from_bits(bits).into());
            let bits = u128::from(bits);
            for (coat, shift) in [
                (0xffff_0000_0000, 0),
                (0xffff_0000_0000_0000, 0),
                (0x0064_ff9b << 96, 0),
                (0x2002 << 112, 80),
                (0x2606_4700 << 96 | 0x5efe_0000_0000, 0),
                (0x2606_4700 << 96 | 0x0200_5efe_0000_0000, 0),
            ] {
                let dressed = Ipv6Addr::from_bits(coat | bits << shift);
                prop_assert_eq!(allowed(dressed.into()), plain, "{}", dressed);
            }
            // Compatible ones overlap with :: and ::1.
            let compatible = allowed(Ipv6Addr::from_bits(bits).into());
            prop_assert_eq!(compatible.is_err(), plain.is_err(), "{:x}", bits);
        }

        #[test]
        fn whole_ranges_are_out_of_reach(host: u32, wide: u128) {
            for (range, len) in [(0_u32, 8), (0x7f00_0000, 8), (0xa9fe_0000, 16), (0xe000_0000, 4), (0xf000_0000, 4)] {
                let address = Ipv4Addr::from_bits(range | host >> len);
                prop_assert!(allowed(address.into()).is_err(), "{}", address);
            }
            for (range, len) in [(0xfe80_u128 << 112, 10), (0xfec0 << 112, 10), (0xff00 << 112, 8), (0x2001 << 112, 32)] {
                let address = Ipv6Addr::from_bits(range | wide >> len);
                prop_assert!(allowed(address.into()).is_err(), "{}", address);
            }
        }
    }
}
