//! How a pod's TCP connections come to the proxy.
//!
//! `fairlead-proxy init` calls [`install`] once per pod, in the pod's network namespace, before anything else runs there. It writes one
//! nftables table, `inet fairlead`, straight to netlink: [`rules`] says which rules, [`netlink`] how they are spelled, this file sends
//! them. The proxy then reads with [`original_dst`] where a captured connection was meant to go.
//!
//! No external binary takes part, so there is no shell to inject into and no legacy iptables to disagree with.

pub mod netlink;
pub mod original_dst;
pub mod ports;
pub mod rules;

use std::{io, time::Duration};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::{NETFILTER, SocketAddrNetlink},
        recv, sendto, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

pub use self::{original_dst::original_dst, ports::PortRanges, rules::Capture};

/// The kernel answers at once; this is for one that never does.
const ANSWER: Duration = Duration::from_secs(5);

/// Why connections cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No netlink socket.
    #[error("cannot open a netfilter netlink socket: {0}. The node's kernel needs nf_tables (Linux 5.2 or newer)")]
    Socket(Errno),
    /// The kernel does not take part in the conversation.
    #[error("cannot {what} netlink: {source}")]
    Netlink {
        /// Read from, or write to.
        what: &'static str,
        /// What the system says.
        source: Errno,
    },
    /// The kernel said no to one of the messages; none of them took effect.
    #[error("the kernel refused to {what}: {source}. {fix}")]
    Refused {
        /// The message that failed.
        what: String,
        /// Its reason.
        source: io::Error,
        /// What to do about it.
        fix: &'static str,
    },
    /// An answer that is not netlink's.
    #[error("the kernel's answer does not parse")]
    Answer,
}

/// Replaces the table `inet fairlead` of this network namespace by the rules of `capture`. All of them take effect at once or none does;
/// doing it twice is the same as doing it once.
pub fn install(capture: &Capture) -> Result<(), CaptureError> {
    let batch = rules::batch(capture);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))
        .map_err(CaptureError::Socket)?;
    let failed = |what| move |source| CaptureError::Netlink { what, source };
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER)).map_err(failed("set up"))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(failed("bind to"))?;
    let bytes = batch.bytes();
    let kernel = SocketAddrNetlink::new(0, 0);
    let sent = sendto(&socket, &bytes, SendFlags::empty(), &kernel).map_err(failed("write to"))?;
    if sent != bytes.len() {
        return Err(failed("write all to")(Errno::NOBUFS));
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty()).map_err(failed("read from"))?;
        let answers = netlink::answers(&buffer[..length]).ok_or(CaptureError::Answer)?;
        for answer in answers {
            if answer.errno != 0 {
                return Err(CaptureError::Refused {
                    what: batch.describe(answer.sequence),
                    source: io::Error::from_raw_os_error(answer.errno),
                    fix: fix(answer.errno),
                });
            }
            if answer.sequence == batch.last() {
                return Ok(());
            }
        }
    }
}

/// What people can do about an error of the kernel.
fn fix(errno: i32) -> &'static str {
    match Errno::from_raw_os_error(errno) {
        Errno::PERM | Errno::ACCESS => {
            "The fairlead-init container needs the capability NET_ADMIN: does the namespace enforce a Pod Security level below \
             \"privileged\"?"
        }
        Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
            "The node's kernel lacks a part of nf_tables: load the modules nf_tables, nft_chain_nat, nft_redir (Linux 5.2 or newer)"
        }
        _ => "Nothing was changed in this pod's network",
    }
}

#[cfg(test)]
mod tests;
