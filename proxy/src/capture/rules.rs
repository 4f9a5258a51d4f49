//! Which connections of a pod are captured, as rules of one nftables table.

use std::ops::RangeInclusive;

use super::{
    netlink::{Attributes, Batch, Kind},
    ports::PortRanges,
};

/// The table's name; the family is inet.
pub const TABLE: &str = "fairlead";
/// `NF_IP_PRI_NAT_DST`, where destinations are translated.
const PRIORITY: i32 = -100;

/// What is captured and where it goes.
#[derive(Debug, Clone)]
pub struct Capture {
    /// Where the proxy accepts what arrives at the pod.
    pub inbound_port: u16,
    /// Where the proxy accepts what leaves the pod.
    pub outbound_port: u16,
    /// The proxy's own connections are not captured.
    pub proxy_uid: u32,
    /// Ports of the pod that are reached directly: the proxy's own, and what the pod's author listed.
    pub skip_inbound: PortRanges,
    /// Ports elsewhere that are dialled directly.
    pub skip_outbound: PortRanges,
}

/// A part of a rule. A rule is a list of these: as long as they hold, the next is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    /// Arrived through an interface.
    InterfaceIn(&'static str),
    /// Leaves through an interface.
    InterfaceOut(&'static str),
    /// The socket's owner.
    Owner(u32),
    Tcp,
    DestinationPort(RangeInclusive<u16>),
    /// To a port of this pod.
    Redirect(u16),
    /// Not captured.
    Return,
}

use Expression::{DestinationPort, InterfaceIn, InterfaceOut, Owner, Redirect, Return, Tcp};

/// The chains, each with its hook (`enum nf_inet_hooks`) and rules. A translation is decided by a connection's first packet; what these
/// chains cost, they cost once per connection.
fn chains(capture: &Capture) -> [(&'static str, u32, Vec<Vec<Expression>>); 2] {
    let skip = |ports: &PortRanges| {
        let rule = |range: &RangeInclusive<u16>| vec![Tcp, DestinationPort(range.clone()), Return];
        ports.iter().map(rule).collect::<Vec<_>>()
    };

    // What comes through lo is the pod talking to itself, or the proxy handing an authorised connection to the application.
    let mut prerouting = vec![vec![InterfaceIn("lo"), Return]];
    prerouting.extend(skip(&capture.skip_inbound));
    prerouting.push(vec![Tcp, Redirect(capture.inbound_port)]);

    // The proxy's own connections, or they would come back to it.
    let mut output = vec![vec![Owner(capture.proxy_uid), Return]];
    // Containers of a pod talk to each other over loopback and over the pod's own address; both leave through lo. That is within one
    // identity, where a mesh has nothing to prove. A Service address leaves through the pod's real interface at this point, even where
    // it will lead back to this pod.
    output.push(vec![InterfaceOut("lo"), Return]);
    output.extend(skip(&capture.skip_outbound));
    output.push(vec![Tcp, Redirect(capture.outbound_port)]);

    [("prerouting", 0, prerouting), ("output", 3, output)]
}

/// The whole change, in an order that works whether or not the table exists: make it if it is missing, drop it, make it anew.
pub(super) fn batch(capture: &Capture) -> Batch {
    let table = || Attributes::default().string(1, TABLE);
    let mut batch = Batch::default();
    batch.push(Kind::NewTable, table(), "create table inet fairlead");
    batch.push(Kind::DeleteTable, table(), "drop the previous table inet fairlead");
    batch.push(Kind::NewTable, table(), "create table inet fairlead anew");
    for (name, hook, rules) in chains(capture) {
        // NFTA_CHAIN_TABLE, _NAME, _HOOK { NFTA_HOOK_HOOKNUM, _PRIORITY }, _TYPE.
        let hook = Attributes::default().number(1, hook).number(2, PRIORITY.cast_unsigned());
        let chain = table().string(3, name).nested(4, &hook).string(7, "nat");
        batch.push(Kind::NewChain, chain, format!("create the nat chain {name}"));
        for rule in rules {
            // NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS.
            let list = rule.iter().fold(Attributes::default(), encode);
            let attributes = table().string(2, name).nested(4, &list);
            batch.push(Kind::NewRule, attributes, format!("add to chain {name} the rule {rule:?}"));
        }
    }
    batch
}

// Registers and keys of linux/netfilter/nf_tables.h.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
const EQUAL: u32 = 0;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_SKUID: u32 = 10;
const META_L4PROTO: u32 = 16;
const TRANSPORT_HEADER: u32 = 2;
/// `NFT_RETURN`: back to where the chain was called from, which for a base chain is on with the packet.
const NFT_RETURN: i32 = -5;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const PORT_GIVEN: u32 = 2;
const IPPROTO_TCP: u8 = 6;
/// `IFNAMSIZ`: interface names are compared whole, with the zeros behind them.
const INTERFACE_NAME: usize = 16;

/// Appends the kernel's expressions for one of ours.
fn encode(list: Attributes, expression: &Expression) -> Attributes {
    match expression {
        InterfaceIn(name) => equal(meta(list, META_IIFNAME), &interface(name)),
        InterfaceOut(name) => equal(meta(list, META_OIFNAME), &interface(name)),
        // The kernel keeps the owner in the machine's byte order.
        Owner(uid) => equal(meta(list, META_SKUID), &uid.to_ne_bytes()),
        Tcp => equal(meta(list, META_L4PROTO), &[IPPROTO_TCP]),
        DestinationPort(range) => {
            // Bytes 2 and 3 of the TCP header.
            let payload =
                Attributes::default().number(1, REGISTER).number(2, TRANSPORT_HEADER).number(3, 2).number(4, 2);
            let list = element(list, "payload", &payload);
            let (start, end) = (range.start().to_be_bytes(), range.end().to_be_bytes());
            if start == end {
                return equal(list, &start);
            }
            let range = Attributes::default()
                .number(1, REGISTER)
                .number(2, EQUAL)
                .nested(3, &data(&start))
                .nested(4, &data(&end));
            element(list, "range", &range)
        }
        Redirect(port) => {
            let immediate = Attributes::default().number(1, REGISTER).nested(2, &data(&port.to_be_bytes()));
            let redirect = Attributes::default().number(1, REGISTER).number(3, PORT_GIVEN);
            element(element(list, "immediate", &immediate), "redir", &redirect)
        }
        Return => {
            let verdict = Attributes::default().number(1, NFT_RETURN.cast_unsigned());
            let immediate =
                Attributes::default().number(1, VERDICT).nested(2, &Attributes::default().nested(2, &verdict));
            element(list, "immediate", &immediate)
        }
    }
}

/// `NFTA_LIST_ELEM { NFTA_EXPR_NAME, NFTA_EXPR_DATA }`.
fn element(list: Attributes, name: &str, value: &Attributes) -> Attributes {
    list.nested(1, &Attributes::default().string(1, name).nested(2, value))
}

/// Loads a property of the packet.
fn meta(list: Attributes, key: u32) -> Attributes {
    let meta = Attributes::default().number(1, REGISTER).number(2, key);
    element(list, "meta", &meta)
}

/// Compares what was loaded.
fn equal(list: Attributes, value: &[u8]) -> Attributes {
    let compare = Attributes::default().number(1, REGISTER).number(2, EQUAL).nested(3, &data(value));
    element(list, "cmp", &compare)
}

/// `NFTA_DATA_VALUE`.
fn data(value: &[u8]) -> Attributes {
    Attributes::default().bytes(1, value)
}

fn interface(name: &str) -> [u8; INTERFACE_NAME] {
    let mut padded = [0; INTERFACE_NAME];
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exemptions_come_before_the_redirect() {
        let capture = Capture {
            inbound_port: 15006,
            outbound_port: 15001,
            proxy_uid: 2102,
            skip_inbound: "15020,22".parse().unwrap(),
            skip_outbound: "3306-3307".parse().unwrap(),
        };
        let [(_, 0, prerouting), (_, 3, output)] = chains(&capture) else {
            panic!("prerouting is hook 0, output is hook 3");
        };
        assert_eq!(
            prerouting,
            [
                vec![InterfaceIn("lo"), Return],
                vec![Tcp, DestinationPort(22..=22), Return],
                vec![Tcp, DestinationPort(15020..=15020), Return],
                vec![Tcp, Redirect(15006)],
            ]
        );
        assert_eq!(
            output,
            [
                vec![Owner(2102), Return],
                vec![InterfaceOut("lo"), Return],
                vec![Tcp, DestinationPort(3306..=3307), Return],
                vec![Tcp, Redirect(15001)],
            ]
        );
    }
}
