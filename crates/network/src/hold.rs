//! Holding the first packets of connections to a Service whose workload sleeps
//! at zero replicas: the client waits instead of being refused, and its own
//! packet goes on to the endpoint that was started for it, with the client's
//! address and without a proxy. Starting that endpoint is not done here.
//!
//! The frontends of a held Service lead, in the Services' table, to a packet
//! queue instead of to an endpoint. That happens in the chain that rewrites
//! destinations, which the kernel asks for the first packet of a connection
//! only; so a Service that is not held pays nothing, and connections that exist
//! are not touched. The kernel keeps the packet. A thread of ours is told of it,
//! notes for which Service it is, and calls [`Holding::on_held`].
//!
//! There is one way out: the packet is marked and sees the chain once more. If
//! its frontend leads to an endpoint by then, it is rewritten to it; if not, the
//! mark lets it pass the queue, and it meets the rules that refuse connections
//! to Services without endpoints. So whoever lets a packet go need not know what
//! becomes of it, no packet can wait twice, and a bound or a deadline that is
//! reached is a refusal the client sees at once.
//!
//! New connections that come faster than the thread can serve are refused by the
//! kernel, each frontend by itself, so that a flood at one does not keep the
//! others from waiting; these are not counted. TCP clients are refused by a
//! reset, UDP clients by "port unreachable", of which the kernel sends a few to
//! one host and then one a second. A sender of which enough datagrams wait is not
//! refused: its further ones are dropped until then.
//!
//! Of a connection that repeats its first TCP segment, the newest is kept: the
//! kernel drops what waits when any program takes a chain away, unseen by us,
//! and the repetition then takes its place. The deadline stays that of the
//! first.
//!
//! TODO-correctness: datagrams that wait are lost when another program takes a
//! chain of its own away (the kernel then empties every queue of the network
//! namespace), until the kernel tells queues and hooks apart.
//! TODO-coverage: only IPv4, until the Services' rules have IPv6.
//! TODO-coverage: the kernel's own `queue` expression is used where it is there,
//! and no test runs it, until tests run on a kernel that has it.

mod holder;
mod packet;
mod sleepers;
mod waiting;

pub(crate) use holder::Holder;
pub(crate) use packet::Place;
pub use sleepers::HeldSleepers;
pub(crate) use waiting::Fate;

use crate::netlink::NetlinkError;
use client::ObjectKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How new connections to a Service are treated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hold {
    /// They wait while no endpoint is ready for their port; with an endpoint
    /// they pass.
    WhenUnserved,
    /// They wait even if endpoints exist: for the time in which the workload
    /// is taken down. Endpoints that are ending still count as serving under
    /// [`Hold::WhenUnserved`], so stay with this until they are gone.
    Always,
}

/// Services and how their new connections are treated.
pub type Holds = BTreeMap<ObjectKey, Hold>;

/// What the proxy is to hold, and whom it tells. Only TCP and UDP are held.
///
/// The calls come one at a time, in the order of what they report. They must
/// not wait for the proxy.
pub struct Holding {
    /// Services to hold; the latest value counts. Until a first value is sent
    /// (or found here, not empty) the Services that a former run held stay
    /// held.
    pub wanted: watch::Receiver<Arc<Holds>>,
    /// What the kernel does now; sent after each transaction that changed it.
    /// Services that do not exist or have no address are not in it.
    pub applied: watch::Sender<Arc<Holds>>,
    /// Called on the receiving thread when a Service begins to have held
    /// packets; once until some of them are let go or refused. Microseconds of
    /// work only.
    pub on_held: Arc<dyn Fn(&ObjectKey) + Send + Sync>,
    /// Called after held packets were let go or refused, or were dropped because
    /// all rules were written anew (neither number counts them), on the thread
    /// that did it: the receiving one or one of the proxy's. Microseconds of
    /// work only.
    pub on_released: Arc<dyn Fn(&ObjectKey, Released) + Send + Sync>,
    /// Bounds.
    pub limits: HoldLimits,
}

/// Held packets that wait no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// How many went on to an endpoint.
    pub packets: usize,
    /// How many were refused: because their time was over, because the Service
    /// is neither held nor served any longer, or, since the last such report,
    /// at once because a bound was reached.
    pub refused: usize,
    /// How long the first of them was held.
    pub first_held: Duration,
}

/// Bounds on what is held. What exceeds one is refused at once, as a Service
/// without endpoints refuses.
///
/// A Service may hold at most as much as is left for all others: however many
/// are flooded, the next one finds room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldLimits {
    /// Packets of one Service; 128, the length of a usual listen queue, which
    /// is where they go.
    pub packets_per_service: usize,
    /// Packets in all; 4096.
    pub packets: usize,
    /// Kernel memory of all packets, in bytes; 8 MiB.
    pub bytes: usize,
    /// How long a packet is held at most; 30 s, within which every usual client
    /// still tries.
    pub time: Duration,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { packets_per_service: 128, packets: 4096, bytes: 8 * 1024 * 1024, time: Duration::from_secs(30) }
    }
}

/// Why first packets cannot be held on this node.
#[derive(thiserror::Error, Debug)]
pub enum HoldError {
    /// The kernel has no way for a rule to hand packets to a queue. It needs
    /// `CONFIG_NFT_QUEUE`, or `CONFIG_NFT_COMPAT` with
    /// `CONFIG_NETFILTER_XT_TARGET_NFQUEUE`.
    #[error("nftables in this kernel has neither a queue ({native}) nor the target NFQUEUE")]
    Unsupported {
        /// Why nftables' own expression cannot be used.
        native: NetlinkError,
        /// Why the target cannot be used.
        #[source]
        target: NetlinkError,
    },
    /// No queue could be had. Needs `CAP_NET_ADMIN` and
    /// `CONFIG_NETFILTER_NETLINK_QUEUE`.
    #[error("cannot {step}")]
    Queue {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: NetlinkError,
    },
    /// The receiving thread could not be started.
    #[error("cannot start the thread that receives held packets")]
    Thread {
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}
