//! Network namespaces for tests: a node, its pods and a machine outside. They
//! vanish with the last descriptor; nothing is mounted and nothing is named.

use crate::netlink::route::{self, Route, VethEnd};
use crate::netlink::{Messages, NetlinkError, Protocol, Socket, namespace, nftables};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::Duration;

/// Long enough that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace of its own.
pub(crate) struct Netns {
    file: File,
}

impl Netns {
    /// A fresh one with loopback up.
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            // SAFETY: the thread is new and shares nothing that depends on its
            // network namespace.
            #[expect(unsafe_code, reason = "leaving a namespace is unsafe in rustix")]
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("tests run as root");
            let mut messages = Messages::new();
            route::set_up(&mut messages, route::LOOPBACK);
            Socket::open(Protocol::Route).unwrap().request(messages).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self { file: file.join().unwrap() }
    }

    /// A path that leads to it from within this process.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs inside; sockets that come out stay inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        namespace::inside(&self.path(), || Ok(work())).unwrap()
    }

    /// A TCP server that answers each connection with `name`, the peer's
    /// address and what it was sent first.
    pub(crate) fn serve_tcp(&self, address: SocketAddr, name: &'static str) {
        let listener = self.run(move || TcpListener::bind(address).unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().unwrap();
                let mut buffer = [0; 64];
                let length = stream.read(&mut buffer).unwrap_or(0);
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let _gone = stream.write_all(format!("{name} {} {text}", peer.ip()).as_bytes());
            }
        });
    }

    /// Answers datagrams with `name` and the sender's address.
    pub(crate) fn serve_udp(&self, address: SocketAddr, name: &'static str) {
        let socket = self.run(move || UdpSocket::bind(address).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _gone = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// What a TCP server says.
    pub(crate) fn ask_tcp(&self, to: SocketAddr) -> std::io::Result<String> {
        let mut stream = self.run(move || TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"hi")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// What a UDP server says.
    pub(crate) fn ask_udp(&self, to: SocketAddr) -> std::io::Result<String> {
        let socket = self.run(|| UdpSocket::bind("0.0.0.0:0"))?;
        exchange_udp(&socket, to)
    }

    /// Joins two namespaces by a cable with these addresses (/24).
    pub(crate) fn cable(&self, name: &'static str, here: IpAddr, other: &Netns, there: IpAddr) {
        let fd = other.file.as_fd();
        self.run(move || {
            let mut messages = Messages::new();
            let near = VethEnd { name, mac: [2, 0, 0, 0, 0, 1] };
            let far = VethEnd { name, mac: [2, 0, 0, 0, 0, 2] };
            route::add_veth(&mut messages, &near, &far, fd, 1500, 0);
            Socket::open(Protocol::Route).unwrap().request(messages).unwrap();
        });
        for (namespace, address) in [(self, here), (other, there)] {
            namespace.run(move || {
                let mut socket = Socket::open(Protocol::Route).unwrap();
                let index = route::link(&mut socket, name).unwrap().unwrap().index;
                let mut messages = Messages::new();
                route::set_up(&mut messages, index);
                route::add_address(&mut messages, index, address, 24);
                socket.request(messages).unwrap();
            });
        }
    }

    /// Sends everything unknown to a gateway.
    pub(crate) fn default_route(&self, device: &'static str, gateway: IpAddr) {
        self.run(move || {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            let index = route::link(&mut socket, device).unwrap().unwrap().index;
            let mut messages = Messages::new();
            let route = Route { destination: None, gateway: Some(gateway), index, source: None };
            route::add_route(&mut messages, &route);
            socket.request(messages).unwrap();
        });
    }

    /// Everything this crate could leave behind: links, addresses, routes and
    /// nftables tables.
    pub(crate) fn inventory(&self) -> Vec<String> {
        self.run(|| -> Result<Vec<String>, NetlinkError> {
            let mut socket = Socket::open(Protocol::Route)?;
            let mut all = Vec::new();
            all.extend(route::links(&mut socket)?.iter().map(|link| format!("link {}", link.name)));
            all.extend(route::addresses(&mut socket)?.iter().map(|(_, address, _)| format!("address {address}")));
            all.extend(
                route::inventory::routes(&mut socket)?.iter().map(|(to, prefix, _)| format!("route {to}/{prefix}")),
            );
            let mut socket = Socket::open(Protocol::Netfilter)?;
            let tables = nftables::tables(&mut socket, nftables::Family::Ipv4)?;
            all.extend(tables.iter().map(|table| format!("table {table}")));
            all.sort();
            Ok(all)
        })
        .unwrap()
    }
}

/// Sends a datagram and waits for the answer.
pub(crate) fn exchange_udp(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<String> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"hi")?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
