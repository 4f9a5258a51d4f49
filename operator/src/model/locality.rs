//! Which endpoints are near to a caller.

/// Where something runs, as the labels of its node say.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Empty: unknown.
    pub zone: String,
    /// Empty: unknown.
    pub region: String,
}

/// Which endpoints are near.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locality {
    /// Those of the caller's zone come before others of its region.
    pub prefer_zone: bool,
    /// Regions that help, by the caller's region.
    pub failover: Vec<(String, Vec<String>)>,
    /// The share of endpoints that must be well to take all requests, millionths.
    pub min_healthy: u32,
}

impl Locality {
    /// How far an endpoint at `there` is from a caller at `here`: 0 its zone, 1 its region, then the regions that help, in their order, then
    /// the rest. What is unknown of the caller makes no difference between endpoints; an endpoint of which nothing is known is far.
    pub fn level(&self, here: &Place, there: &Place) -> u32 {
        if self.prefer_zone && !here.zone.is_empty() && here == there {
            return 0;
        }
        if here.region.is_empty() || here.region == there.region {
            return 1;
        }
        let helpers = self.failover.iter().find(|(from, _)| *from == here.region).map_or(&[][..], |(_, to)| to);
        let place = helpers.iter().position(|region| *region == there.region).unwrap_or(helpers.len());
        2 + place as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(zone: &str, region: &str) -> Place {
        Place { zone: zone.into(), region: region.into() }
    }

    #[test]
    fn zone_then_region_then_helpers_in_their_order_then_the_rest() {
        let failover = vec![("eu".to_owned(), vec!["us".to_owned(), "asia".to_owned()])];
        let locality = Locality { prefer_zone: true, failover, min_healthy: 700_000 };
        let here = place("eu-a", "eu");
        for (there, level) in [
            (place("eu-a", "eu"), 0),
            (place("eu-b", "eu"), 1),
            (place("us-a", "us"), 2),
            (place("asia-a", "asia"), 3),
            (place("sa-a", "sa"), 4),
            (place("", ""), 4),
            // Names of zones may repeat.
            (place("eu-a", "us"), 2),
        ] {
            assert_eq!(locality.level(&here, &there), level, "{there:?}");
        }
        assert_eq!(locality.level(&place("us-a", "us"), &here), 2, "no helpers are named for us");
    }

    #[test]
    fn what_is_not_preferred_or_not_known_makes_no_difference() {
        let zone = Locality { prefer_zone: true, failover: Vec::new(), min_healthy: 1 };
        let region = Locality { prefer_zone: false, ..zone.clone() };
        assert_eq!(
            region.level(&place("a", "eu"), &place("a", "eu")),
            region.level(&place("a", "eu"), &place("b", "eu"))
        );
        for there in [place("a", "eu"), place("b", "us"), place("", "")] {
            assert_eq!(zone.level(&Place::default(), &there), 1);
        }
        // Zones without regions, as on many small clusters.
        assert_eq!(
            (zone.level(&place("a", ""), &place("a", "")), zone.level(&place("a", ""), &place("b", ""))),
            (0, 1)
        );
    }
}
