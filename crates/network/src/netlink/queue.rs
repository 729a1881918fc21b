//! Holding packets that a rule hands to a queue (`nfnetlink_queue`). One socket
//! owns a queue; the kernel keeps a packet until this socket decides about it,
//! and drops what is left when the socket is closed. Which packets those are,
//! and for how long, is the business of the caller.

use super::expression::{Expression, QueueBy, Queueing};
use super::message::{self, attribute};
use super::nftables::{Batch, Family};
use super::socket::{Sender, Unasked};
use super::{Messages, NetlinkError, Protocol, Socket};
use crate::hold::HoldError;
use std::io;

const NLMSG_ERROR: u16 = 2;
const NFNL_SUBSYS_QUEUE: u16 = 3;
const NFQNL_MSG_PACKET: u16 = 0;
const NFQNL_MSG_VERDICT: u16 = 1;
const NFQNL_MSG_CONFIG: u16 = 2;
const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_CFG_QUEUE_MAXLEN: u16 = 3;
const NFQNL_CFG_CMD_BIND: u8 = 1;
const NFQNL_COPY_PACKET: u8 = 2;
const NFQA_PACKET_HDR: u16 = 1;
const NFQA_VERDICT_HDR: u16 = 2;
const NFQA_MARK: u16 = 3;
const NFQA_PAYLOAD: u16 = 10;
const NF_DROP: u32 = 0;
const NF_REPEAT: u32 = 4;

/// Bytes of kernel memory for packets that are not read yet: some 8,000, so
/// that a burst of as many connections is not lost.
const RECEIVE_QUEUE: usize = 8 * 1024 * 1024;
/// Verdicts in one datagram: 44 bytes each, far below the send buffer.
const VERDICTS_PER_DATAGRAM: usize = 512;
/// Sequence number of the request that starts the flow; verdicts have 0.
const LISTEN: u32 = 1;

/// Owns one queue of a network namespace.
pub(crate) struct PacketQueue {
    socket: Socket,
    number: u16,
}

/// A held packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queued<'a> {
    /// Names it in a verdict.
    pub(crate) id: u32,
    /// Its mark.
    pub(crate) mark: u32,
    /// Its first bytes, from the IP header on.
    pub(crate) bytes: &'a [u8],
}

/// What came from the queue.
pub(crate) enum FromQueue<'a> {
    /// Packets that wait for a verdict; may be none.
    Packets(Vec<Queued<'a>>),
    /// The kernel dropped some because they were not read fast enough.
    Lost,
    /// Nothing is there now.
    Nothing,
}

/// What becomes of a held packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PacketVerdict {
    /// It is gone.
    Drop,
    /// The hook that held it sees it once more, with this mark.
    Again(u32),
}

impl PacketQueue {
    /// Takes the first free queue at or after `first`, trying at most
    /// `attempts`. Packets to it are dropped until [`PacketQueue::listen`].
    pub(crate) fn open(first: u16, attempts: u16) -> Result<Self, NetlinkError> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let mut number = first;
        loop {
            match socket.request(configure("take a packet queue", number, |a| {
                a.bytes(NFQA_CFG_CMD, &[NFQNL_CFG_CMD_BIND, 0, 0, 0]);
            })) {
                Ok(()) => break,
                // As with log groups, EPERM is a queue that another socket has.
                Err(error)
                    if matches!(error.errno(), Some(libc::EBUSY | libc::EPERM)) && number - first + 1 < attempts =>
                {
                    number += 1;
                }
                Err(error) => return Err(error),
            }
        }
        socket.hold_at_least(RECEIVE_QUEUE)?;
        Ok(Self { socket, number })
    }

    /// The queue's number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// From now on packets come, with the first `length` bytes of each; of
    /// more than `most` that wait the kernel drops the newest. Gives the handle
    /// that decides about them.
    pub(crate) fn listen(&self, length: u32, most: u32) -> Result<Verdicts, NetlinkError> {
        let sender = self.socket.sender()?;
        // Not acknowledged: whoever waits for an acknowledgement may read a
        // packet instead. A refusal comes out of `next`.
        let messages = configure("receive held packets", self.number, |a| {
            let mut mode = length.to_be_bytes().to_vec();
            mode.push(NFQNL_COPY_PACKET);
            a.bytes(NFQA_CFG_PARAMS, &mode);
            a.u32_be(NFQA_CFG_QUEUE_MAXLEN, most);
        });
        sender.send(messages, LISTEN)?;
        Ok(Verdicts { sender, number: self.number })
    }

    /// What is there; does not wait.
    pub(crate) fn next(&mut self) -> Result<FromQueue<'_>, NetlinkError> {
        let step = "receive held packets";
        let datagram = match self.socket.next_now(step)? {
            Unasked::Datagram(datagram) => datagram,
            Unasked::Lost => return Ok(FromQueue::Lost),
            Unasked::Nothing => return Ok(FromQueue::Nothing),
        };
        let mut packets = Vec::new();
        for message in message::received(datagram) {
            if message.kind == NLMSG_ERROR && message.sequence == LISTEN {
                let code = message.payload.get(..4).and_then(message::u32_ne).unwrap_or(0).cast_signed();
                let source = io::Error::from_raw_os_error(code.saturating_neg());
                return Err(NetlinkError::Refused { step, hint: String::new(), source });
            }
            // Other refusals are verdicts on packets that the kernel dropped
            // by itself: their device went, or a table did.
            if message.kind == (NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_PACKET {
                packets.extend(queued(message.payload));
            }
        }
        Ok(FromQueue::Packets(packets))
    }
}

impl std::os::fd::AsFd for PacketQueue {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn queued(payload: &[u8]) -> Option<Queued<'_>> {
    let attributes = payload.get(4..)?;
    Some(Queued {
        id: number(attribute(attributes, NFQA_PACKET_HDR)?)?,
        mark: attribute(attributes, NFQA_MARK).and_then(number).unwrap_or(0),
        bytes: attribute(attributes, NFQA_PAYLOAD).unwrap_or_default(),
    })
}

/// Decides about a queue's packets, from any thread.
pub(crate) struct Verdicts {
    sender: Sender,
    number: u16,
}

impl Verdicts {
    /// Decides. When it returns, the packets have gone their way; one that the
    /// kernel no longer has is passed over.
    pub(crate) fn decide(&self, verdicts: &[(u32, PacketVerdict)]) -> Result<(), NetlinkError> {
        for part in verdicts.chunks(VERDICTS_PER_DATAGRAM) {
            let mut messages = Messages::new();
            for (id, verdict) in part {
                let (code, mark) = match verdict {
                    PacketVerdict::Drop => (NF_DROP, None),
                    PacketVerdict::Again(mark) => (NF_REPEAT, Some(*mark)),
                };
                let kind = (NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_VERDICT;
                messages.push("decide about a held packet", kind, 0, &header(self.number), |a| {
                    a.bytes(NFQA_VERDICT_HDR, &[code.to_be_bytes(), id.to_be_bytes()].concat());
                    if let Some(mark) = mark {
                        a.u32_be(NFQA_MARK, mark);
                    }
                });
            }
            self.sender.send(messages, 0)?;
        }
        Ok(())
    }
}

fn header(number: u16) -> [u8; 4] {
    let [a, b] = number.to_be_bytes();
    [0, 0, a, b]
}

fn configure(step: &'static str, number: u16, fill: impl FnOnce(&mut message::Attributes<'_>)) -> Messages {
    let mut messages = Messages::new();
    messages.push(step, (NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_CONFIG, 0, &header(number), fill);
    messages
}

/// How this kernel lets rules reach a queue. `table` is the name of a table
/// that does not exist; nothing is left of it.
pub(crate) fn probe(socket: &mut Socket, table: &str, number: u16) -> Result<Queueing, HoldError> {
    let mut attempt = |by| {
        let queueing = Queueing { number, by };
        Batch::probe(Family::Ipv4, table, &[Expression::Queue(queueing)]).commit(socket).map(|()| queueing)
    };
    attempt(QueueBy::Expression)
        .or_else(|native| attempt(QueueBy::Target).map_err(|target| HoldError::Unsupported { native, target }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::Netns;

    #[test]
    fn a_queue_that_another_has_is_passed_over_and_a_closed_one_is_free_again() {
        let node = Netns::new();
        let open = |attempts| node.run(move || PacketQueue::open(3500, attempts));
        let first = open(1).unwrap();
        let second = open(2).unwrap();
        assert_eq!((first.number(), second.number()), (3500, 3501));
        assert!(open(2).is_err());
        drop(first);
        assert_eq!(open(1).unwrap().number(), 3500);
    }

    #[test]
    fn the_probe_finds_a_way_into_the_queue_and_leaves_nothing() {
        let node = Netns::new();
        let found = node.run(|| probe(&mut Socket::open(Protocol::Netfilter).unwrap(), "darter-probe", 3500)).unwrap();
        assert_eq!(found.number, 3500);
        assert_eq!(node.inventory(), Netns::new().inventory());
    }
}
