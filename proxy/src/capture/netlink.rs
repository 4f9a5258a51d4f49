//! The netlink spelling of nftables: messages, attributes, answers. Knows the format and nothing of Fairlead's rules.
//!
//! Sources: `linux/netlink.h`, `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`. Headers are in the machine's byte order,
//! numbers within nftables attributes in network order, except what is compared with a register that holds the machine's order.

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`.
const BATCH_END: u16 = 0x11;
/// `NLMSG_ERROR`, which also acknowledges.
const ERROR: u16 = 2;
/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
const INET: u8 = 1;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// What a message does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `NFT_MSG_NEWTABLE`; one that exists already is fine.
    NewTable,
    /// `NFT_MSG_DELTABLE`, with all that is in it.
    DeleteTable,
    /// `NFT_MSG_NEWCHAIN`.
    NewChain,
    /// `NFT_MSG_NEWRULE`, at the end of its chain.
    NewRule,
}

impl Kind {
    fn code(self) -> u16 {
        let code = match self {
            Self::NewTable => 0,
            Self::DeleteTable => 2,
            Self::NewChain => 3,
            Self::NewRule => 6,
        };
        NFTABLES << 8 | code
    }

    fn flags(self) -> u16 {
        match self {
            Self::NewTable | Self::NewChain => CREATE,
            Self::NewRule => CREATE | APPEND,
            Self::DeleteTable => 0,
        }
    }
}

/// Attributes, one after the other, each padded to four bytes.
#[derive(Debug, Clone, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Raw bytes.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // Values here are names of a dozen bytes and lists of a few expressions.
        let length = (4 + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number in network order.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A string with the final zero that the kernel expects.
    #[must_use]
    pub fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Attributes within one.
    #[must_use]
    pub fn nested(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }
}

/// Messages that take effect together or not at all.
#[derive(Debug, Default)]
pub struct Batch(Vec<(Kind, Attributes, String)>);

impl Batch {
    /// Adds a message; `what` completes "the kernel refused to …".
    pub fn push(&mut self, kind: Kind, attributes: Attributes, what: impl Into<String>) {
        self.0.push((kind, attributes, what.into()));
    }

    /// The sequence number of the last message, the only one that is acknowledged. The frame around the messages has numbers too.
    pub fn last(&self) -> u32 {
        self.0.len() as u32
    }

    /// What the message with this sequence number was to do.
    pub fn describe(&self, sequence: u32) -> String {
        (sequence as usize)
            .checked_sub(1)
            .and_then(|index| self.0.get(index))
            .map_or_else(|| "take a change of nftables".to_owned(), |(.., what)| what.clone())
    }

    /// For one write to the socket.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, BATCH_BEGIN, 0);
        for (index, (kind, attributes, _)) in self.0.iter().enumerate() {
            let sequence = index as u32 + 1;
            let ack = if sequence == self.last() { ACK } else { 0 };
            message(&mut bytes, (kind.code(), REQUEST | kind.flags() | ack, sequence), (INET, 0), &attributes.0);
        }
        frame(&mut bytes, BATCH_END, self.last() + 1);
        bytes
    }
}

fn frame(out: &mut Vec<u8>, kind: u16, sequence: u32) {
    message(out, (kind, REQUEST, sequence), (0, NFTABLES), &[]);
}

/// `struct nlmsghdr`, `struct nfgenmsg`, attributes.
fn message(
    out: &mut Vec<u8>,
    (kind, flags, sequence): (u16, u16, u32),
    (family, resource): (u8, u16),
    attributes: &[u8],
) {
    let length = (HEADER + 4 + attributes.len()) as u32;
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&0_u32.to_ne_bytes());
    out.extend_from_slice(&[family, 0]);
    out.extend_from_slice(&resource.to_be_bytes());
    out.extend_from_slice(attributes);
}

/// What the kernel says of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Of the message.
    pub sequence: u32,
    /// 0: it took effect.
    pub errno: i32,
}

/// Parses what was read from the socket; `None` where it is not netlink.
pub fn answers(mut bytes: &[u8]) -> Option<Vec<Answer>> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
        if length < HEADER {
            return None;
        }
        let payload = bytes.get(HEADER..length)?;
        if kind == ERROR {
            let errno = i32::from_ne_bytes(*payload.first_chunk()?);
            answers.push(Answer { sequence, errno: errno.checked_neg()? });
        }
        // The last message of a read need not be padded.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_counted_padded_and_nested() {
        let inner = Attributes::default().number(2, 15001);
        let outer = Attributes::default().string(1, "fairlead").nested(4, &inner);
        let mut expected = Vec::new();
        expected.extend_from_slice(&13_u16.to_ne_bytes());
        expected.extend_from_slice(&1_u16.to_ne_bytes());
        expected.extend_from_slice(b"fairlead\0\0\0\0");
        expected.extend_from_slice(&12_u16.to_ne_bytes());
        expected.extend_from_slice(&0x8004_u16.to_ne_bytes());
        expected.extend_from_slice(&8_u16.to_ne_bytes());
        expected.extend_from_slice(&2_u16.to_ne_bytes());
        expected.extend_from_slice(&[0, 0, 0x3a, 0x99]);
        assert_eq!(outer.0, expected);
    }

    #[test]
    fn a_batch_is_framed_and_its_last_message_acknowledged() {
        let mut batch = Batch::default();
        batch.push(Kind::NewTable, Attributes::default().string(1, "t"), "make t");
        batch.push(Kind::DeleteTable, Attributes::default().string(1, "t"), "drop t");
        let bytes = batch.bytes();
        let mut rest = &bytes[..];
        let mut headers = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(*rest.first_chunk().unwrap()) as usize;
            let half = |at: usize| u16::from_ne_bytes(*rest[at..].first_chunk().unwrap());
            let sequence = u32::from_ne_bytes(*rest[8..].first_chunk().unwrap());
            headers.push((half(4), half(6), sequence));
            rest = &rest[length..];
        }
        assert_eq!(
            headers,
            [(0x10, REQUEST, 0), (0xa00, REQUEST | CREATE, 1), (0xa02, REQUEST | ACK, 2), (0x11, REQUEST, 3)]
        );
        assert_eq!(batch.describe(2), "drop t");
        assert_eq!(batch.describe(0), "take a change of nftables");
    }

    #[test]
    fn answers_parse_and_nonsense_does_not() {
        let mut bytes = Vec::new();
        for (sequence, error) in [(3_u32, -1_i32), (4, 0)] {
            bytes.extend_from_slice(&36_u32.to_ne_bytes());
            bytes.extend_from_slice(&ERROR.to_ne_bytes());
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&error.to_ne_bytes());
            bytes.extend_from_slice(&[0; 16]);
        }
        let expected = [(3, 1), (4, 0)].map(|(sequence, errno)| Answer { sequence, errno });
        assert_eq!(answers(&bytes).unwrap(), expected);
        for cut in 1..36 {
            assert_eq!(answers(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(answers(&[0; 16]), None);
    }
}
