//! Consistent hashing: the same key goes to the same endpoint, from every caller, and a change of one endpoint of n moves about one key
//! of n.

use std::net::{IpAddr, SocketAddr};

/// Points of each endpoint. 64: shares differ by an eighth, which the bound on load evens out, and a thousand endpoints take half a
/// megabyte. It does not depend on the number of endpoints, because then a change of that would move keys of all.
const POINTS: u32 = 64;

/// Points on a circle, each of an endpoint.
#[derive(Debug, Default)]
pub struct Ring(Vec<(u32, u32)>);

impl Ring {
    /// Of endpoints by their place in a list.
    pub fn new(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        let mut points: Vec<(u32, u32)> = Vec::new();
        for (index, address) in addresses.enumerate() {
            let own = of_address(address);
            points.extend((0..POINTS).map(|n| ((mix(own ^ u64::from(n)) >> 32) as u32, index as u32)));
        }
        points.sort_unstable();
        Self(points)
    }

    /// Endpoints in the order of preference of a key; one comes again and again, and in the end all have come.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|(point, _)| *point < (key >> 32) as u32);
        let (before, after) = self.0.split_at(start);
        after.iter().chain(before).map(|(_, index)| *index as usize)
    }
}

/// The key for some bytes: FNV-1a with a final mix. Every version of every proxy must find the same, so none of the library's.
pub fn key(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// The key for an address.
pub fn of_ip(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => key(&ip.octets()),
        IpAddr::V6(ip) => key(&ip.octets()),
    }
}

fn of_address(address: SocketAddr) -> u64 {
    mix(of_ip(address.ip()) ^ u64::from(address.port()))
}

/// The finaliser of `SplitMix64`: each bit of the argument changes half of the result's.
pub(super) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(count: u32) -> Vec<SocketAddr> {
        (0..count).map(|n| SocketAddr::from(((0x0a00_0000 + n).to_be_bytes(), 8080))).collect()
    }

    fn first(ring: &Ring, addresses: &[SocketAddr], n: u64) -> SocketAddr {
        addresses[ring.walk(key(&n.to_be_bytes())).next().unwrap()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_change_of_one_endpoint_of_n_moves_about_one_key_of_n(count in 3_u32..60, gone in any::<prop::sample::Index>()) {
            let all = addresses(count);
            let mut fewer = all.clone();
            let gone = fewer.remove(gone.index(all.len()));
            let (before, after) = (Ring::new(all.iter().copied()), Ring::new(fewer.iter().copied()));
            let keys = 4000_u64;
            let mut moved = 0_u32;
            for n in 0..keys {
                let (old, new) = (first(&before, &all, n), first(&after, &fewer, n));
                if old != new {
                    prop_assert_eq!(old, gone, "keys of those that stay do not move");
                    moved += 1;
                }
            }
            let share = f64::from(moved) / keys as f64 * f64::from(count);
            prop_assert!((0.4..1.9).contains(&share), "{share} of one in {count}");
        }

        #[test]
        fn keys_are_spread(count in 2_u32..40) {
            let all = addresses(count);
            let ring = Ring::new(all.iter().copied());
            let mut shares = vec![0_u32; all.len()];
            for n in 0..20_000_u64 {
                shares[ring.walk(key(&n.to_be_bytes())).next().unwrap()] += 1;
            }
            let mean = 20_000.0 / f64::from(count);
            prop_assert!(shares.iter().all(|share| (0.5..1.7).contains(&(f64::from(*share) / mean))), "{shares:?}");
        }
    }

    #[test]
    fn a_walk_comes_by_everybody_and_ends() {
        let ring = Ring::new(addresses(7).into_iter());
        let mut seen = [false; 7];
        let steps = ring.walk(key(b"any")).inspect(|index| seen[*index] = true).count();
        assert!(seen.iter().all(|seen| *seen) && steps == 7 * POINTS as usize);
        assert_eq!(Ring::default().walk(1).count(), 0);
    }

    #[test]
    fn keys_are_the_same_in_every_proxy() {
        assert_eq!(key(b"fairlead"), key(b"fairlead"));
        assert_ne!(key(b"a"), key(b"b"));
        // Written down: a change would move every key of every mesh during its upgrade.
        assert_eq!(key(b""), mix(0xcbf2_9ce4_8422_2325));
    }
}
