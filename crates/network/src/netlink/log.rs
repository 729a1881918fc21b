//! Receiving packets that a rule hands to a log group (`nfnetlink_log`). One
//! socket owns a group; each packet arrives by itself and at once. What a
//! packet means is the business of the caller.

use super::message::{self, attribute};
use super::{Messages, NetlinkError, Protocol, Socket};

const NFNL_SUBSYS_ULOG: u16 = 4;
const NFULNL_MSG_PACKET: u16 = 0;
const NFULNL_MSG_CONFIG: u16 = 1;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_QTHRESH: u16 = 5;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
const NFULA_PAYLOAD: u16 = 9;

/// Owns one log group of a network namespace.
pub(crate) struct PacketLog {
    socket: Socket,
}

/// What came from the group.
pub(crate) enum Logged<'a> {
    /// The first bytes of packets, from the IP header on.
    Packets(Vec<&'a [u8]>),
    /// Some were lost.
    Overrun,
}

impl PacketLog {
    /// Takes the first free group at or after `first`, trying at most
    /// `attempts`, and asks for `length` bytes of each packet.
    pub(crate) fn open(first: u16, attempts: u16, length: u32) -> Result<(Self, u16), NetlinkError> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let mut group = first;
        loop {
            match socket.request(configure("take a packet log group", group, |a| {
                a.bytes(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]);
            })) {
                Ok(()) => break,
                // The kernel says EPERM for a group that another socket has; without
                // CAP_NET_ADMIN the last attempt fails the same way.
                Err(error) if matches!(error.errno(), Some(libc::EBUSY | libc::EPERM)) && group - first + 1 < attempts => {
                    group += 1;
                }
                Err(error) => return Err(error),
            }
        }
        socket.request(configure("set up a packet log group", group, |a| {
            let mut mode = length.to_be_bytes().to_vec();
            mode.extend_from_slice(&[NFULNL_COPY_PACKET, 0]);
            a.bytes(NFULA_CFG_MODE, &mode);
            a.u32_be(NFULA_CFG_QTHRESH, 1);
        }))?;
        socket.wait_forever()?;
        Ok((Self { socket }, group))
    }

    /// Waits for packets.
    pub(crate) fn next(&mut self) -> Result<Logged<'_>, NetlinkError> {
        let Some(datagram) = self.socket.next("receive logged packets")? else {
            return Ok(Logged::Overrun);
        };
        let packets = message::received(datagram)
            .filter(|packet| packet.kind == (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_PACKET)
            .filter_map(|packet| attribute(packet.payload.get(4..)?, NFULA_PAYLOAD))
            .collect();
        Ok(Logged::Packets(packets))
    }
}

impl std::os::fd::AsFd for PacketLog {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn configure(step: &'static str, group: u16, fill: impl FnOnce(&mut message::Attributes<'_>)) -> Messages {
    let mut messages = Messages::new();
    let group = group.to_be_bytes();
    messages.push(step, (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_CONFIG, 0, &[0, 0, group[0], group[1]], fill);
    messages
}
