//! A blocking netlink socket: send requests, collect acknowledgements, list.
//! It stays in the network namespace in which it was opened, whatever thread
//! uses it later.

use super::NetlinkError;
use super::message::{self, ACK, DUMP, HEADER, Messages, Received};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Receive buffer of the process, bytes: the kernel never sends larger
/// datagrams for a listing (`NETLINK_MAX_RECVMSG_SIZE` is 32 KiB).
const DATAGRAM: usize = 64 * 1024;
/// Receive buffer of the kernel, bytes: the acknowledgements of the largest
/// batch must fit.
const RECEIVE_QUEUE: usize = 1024 * 1024;
/// The kernel answers at once; whoever waits this long has found a bug.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A listing that the kernel says was changed meanwhile is taken again.
const DUMP_ATTEMPTS: usize = 8;

/// Which part of the kernel listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nftables, conntrack, packet logs.
    Netfilter,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Netfilter => "netfilter",
        }
    }
}

/// One socket; one request at a time.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let open = || -> rustix::io::Result<OwnedFd> {
            let kernel = match protocol {
                // NETLINK_ROUTE is 0, the family's default.
                Protocol::Route => None,
                Protocol::Netfilter => Some(netlink::NETFILTER),
            };
            let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, kernel)?;
            rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
            sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_QUEUE)?;
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
            Ok(fd)
        };
        let fd = open().map_err(|source| NetlinkError::Open { protocol: protocol.name(), source: source.into() })?;
        extended_acknowledgements(&fd);
        Ok(Self { fd, sequence: 1, buffer: vec![0; DATAGRAM] })
    }

    /// Carries out every request in order; the kernel does not stop at a
    /// refused one. Gives the first refusal.
    pub(crate) fn request(&mut self, mut messages: Messages) -> Result<(), NetlinkError> {
        if messages.len() == 0 {
            return Ok(());
        }
        let first = self.send(&mut messages, ACK, None)?;
        let mut refusal = None;
        let mut open = messages.len();
        while open > 0 {
            let length = self.receive(messages.step(0))?;
            for answer in message::received(&self.buffer[..length]) {
                let index = usize::try_from(answer.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if answer.kind != NLMSG_ERROR || index >= messages.len() {
                    continue;
                }
                open = open.saturating_sub(1);
                if refusal.is_none() {
                    refusal = refused(&answer, messages.step(index));
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Carries out a batch that the kernel takes as a whole or not at all. The
    /// last request but one is acknowledged (the last only closes the batch).
    pub(crate) fn transaction(&mut self, mut messages: Messages) -> Result<(), NetlinkError> {
        let witness = messages.len().saturating_sub(2);
        let first = self.send(&mut messages, ACK, Some(witness))?;
        loop {
            let length = self.receive(messages.step(witness))?;
            let mut refusal = None;
            let mut witnessed = false;
            for answer in message::received(&self.buffer[..length]) {
                let index = usize::try_from(answer.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if answer.kind != NLMSG_ERROR || index >= messages.len() {
                    continue;
                }
                witnessed |= index == witness;
                if refusal.is_none() {
                    refusal = refused(&answer, messages.step(index));
                }
            }
            match refusal {
                Some(error) => return Err(error),
                None if witnessed => return Ok(()),
                None => {}
            }
        }
    }

    /// Sends one listing or lookup request and hands every answer to `each`.
    pub(crate) fn list(
        &mut self,
        build: impl Fn(&mut Messages),
        all: bool,
        mut each: impl FnMut(Received<'_>),
    ) -> Result<(), NetlinkError> {
        let mut step = "list";
        for _attempt in 0..DUMP_ATTEMPTS {
            let mut messages = Messages::new();
            build(&mut messages);
            step = messages.step(0);
            let first = self.send(&mut messages, if all { DUMP } else { ACK }, None)?;
            // Answers are kept until the listing is known to be whole.
            let mut answers: Vec<Vec<u8>> = Vec::new();
            let mut interrupted = false;
            let mut done = false;
            while !done {
                let length = self.receive(step)?;
                let mut useful = false;
                for answer in message::received(&self.buffer[..length]).filter(|a| a.sequence == first) {
                    interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
                    match answer.kind {
                        NLMSG_DONE => done = true,
                        NLMSG_ERROR => match refused(&answer, step) {
                            Some(error) => return Err(error),
                            None => done = true,
                        },
                        _ => useful = true,
                    }
                }
                if useful {
                    answers.push(self.buffer[..length].to_vec());
                }
            }
            if interrupted {
                continue;
            }
            for datagram in &answers {
                message::received(datagram)
                    .filter(|a| a.sequence == first && a.kind != NLMSG_DONE && a.kind != NLMSG_ERROR)
                    .for_each(&mut each);
            }
            return Ok(());
        }
        Err(NetlinkError::Exchange { step, source: io::ErrorKind::Interrupted.into() })
    }

    /// Waits for a datagram that nobody asked for. `None`: the kernel had to
    /// drop some because they were not read fast enough.
    pub(crate) fn next(&mut self, step: &'static str) -> Result<Option<&[u8]>, NetlinkError> {
        loop {
            match rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => return Ok(Some(&self.buffer[..length])),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => return Ok(None),
                Err(source) => return Err(NetlinkError::Exchange { step, source: source.into() }),
            }
        }
    }

    /// A datagram that nobody asked for, if there is one.
    pub(crate) fn next_now(&mut self, step: &'static str) -> Result<Unasked<'_>, NetlinkError> {
        loop {
            match rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(Unasked::Datagram(&self.buffer[..length])),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => return Ok(Unasked::Lost),
                Err(rustix::io::Errno::AGAIN) => return Ok(Unasked::Nothing),
                Err(source) => return Err(NetlinkError::Exchange { step, source: source.into() }),
            }
        }
    }

    /// Makes room for more datagrams that nobody asked for, in bytes of the
    /// kernel's memory.
    pub(crate) fn hold_at_least(&self, bytes: usize) -> Result<(), NetlinkError> {
        sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes)
            .map_err(|source| NetlinkError::Open { protocol: "netfilter", source: source.into() })
    }

    /// A second handle that only sends; what it sends comes from the same
    /// socket.
    pub(crate) fn sender(&self) -> Result<Sender, NetlinkError> {
        let fd = self.fd.try_clone().map_err(|source| NetlinkError::Open { protocol: "netfilter", source })?;
        Ok(Sender { fd })
    }

    /// Lets [`Socket::next`] wait for as long as it takes.
    pub(crate) fn wait_forever(&self) -> Result<(), NetlinkError> {
        sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Recv, None)
            .map_err(|source| NetlinkError::Open { protocol: "netfilter", source: source.into() })
    }

    fn send(&mut self, messages: &mut Messages, flags: u16, index: Option<usize>) -> Result<u32, NetlinkError> {
        let first = self.sequence;
        self.sequence = first.wrapping_add(u32::try_from(messages.len()).unwrap_or(1)).max(1);
        let step = messages.step(0);
        let bytes = messages.seal(first, flags, index);
        let failed = |source: rustix::io::Errno| NetlinkError::Exchange { step, source: source.into() };
        if bytes.len() > DATAGRAM {
            // A batch must arrive as one datagram, or it is not one batch.
            sockopt::set_socket_send_buffer_size_force(&self.fd, bytes.len() * 2).map_err(failed)?;
        }
        rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        Ok(first)
    }

    fn receive(&mut self, step: &'static str) -> Result<usize, NetlinkError> {
        loop {
            match rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) if length >= HEADER => return Ok(length),
                Ok(_) => return Err(NetlinkError::Malformed { step }),
                Err(rustix::io::Errno::INTR) => {}
                Err(source) => return Err(NetlinkError::Exchange { step, source: source.into() }),
            }
        }
    }
}

/// What came from the kernel unasked.
pub(crate) enum Unasked<'a> {
    /// One datagram.
    Datagram(&'a [u8]),
    /// The kernel had to drop some because they were not read fast enough.
    Lost,
    /// Nothing is there now.
    Nothing,
}

/// Sends requests that are not answered unless they are refused; may be used
/// while another thread receives.
pub(crate) struct Sender {
    fd: OwnedFd,
}

impl Sender {
    /// Sends the requests in one datagram, numbered from `sequence`. They have
    /// been carried out when this returns.
    pub(crate) fn send(&self, mut messages: Messages, sequence: u32) -> Result<(), NetlinkError> {
        let step = messages.step(0);
        let bytes = messages.seal(sequence, 0, None);
        loop {
            match rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(source) => return Err(NetlinkError::Exchange { step, source: source.into() }),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Asks for the kernel's words with every refusal; does without if it has none.
fn extended_acknowledgements(fd: &OwnedFd) {
    const SOL_NETLINK: libc::c_int = 270;
    const NETLINK_CAP_ACK: libc::c_int = 10;
    const NETLINK_EXT_ACK: libc::c_int = 11;
    for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK] {
        if let Err(error) = set_option(fd.as_fd(), SOL_NETLINK, option, 1) {
            tracing::debug!(err = %error, option, "netlink option not available");
        }
    }
}

/// Sets a socket option that is a number, where rustix has no function for it.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the descriptor is open for as long as it is borrowed, and the
    // option value is a live c_int of exactly the length passed.
    #[expect(unsafe_code, reason = "setsockopt has no safe form for these options")]
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The refusal in an `NLMSG_ERROR`, or `None` if it is an acknowledgement.
fn refused(answer: &Received<'_>, step: &'static str) -> Option<NetlinkError> {
    let Some(code) = answer.payload.get(..4).and_then(|code| Some(i32::from_ne_bytes(code.try_into().ok()?))) else {
        return Some(NetlinkError::Malformed { step });
    };
    if code == 0 {
        return None;
    }
    let mut hint = String::new();
    if answer.flags & NLM_F_ACK_TLVS != 0 {
        // The refused message is repeated, whole unless capped.
        let repeated = if answer.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            answer.payload.get(4..8).and_then(message::u32_ne).map_or(HEADER, |length| message::align(length as usize))
        };
        let rest = answer.payload.get(4 + repeated..).unwrap_or_default();
        if let Some(words) = message::attribute(rest, NLMSGERR_ATTR_MSG).and_then(message::text) {
            hint = words.to_owned();
        }
    }
    Some(NetlinkError::Refused { step, hint, source: io::Error::from_raw_os_error(code.saturating_neg()) })
}
