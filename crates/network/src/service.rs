//! Services as nftables rules: what a connection to a Service's address is
//! rewritten to, on this node.
//!
//! [`plan`] says, per Service, which addresses lead to which endpoints; it is a
//! pure function of the Service and its EndpointSlices. [`layout`] turns that
//! into map elements and shared chains, [`table`] keeps the whole and gives
//! differences, [`ServiceProxy`] follows the cluster and applies them, one
//! transaction a change. A connection costs one lookup for the frontend and one
//! for the endpoint, however many Services there are; a changed endpoint is one
//! changed map element. No packet is touched after its connection's first.
//! First packets to a Service whose workload sleeps can be held until there is
//! an endpoint: see [`crate::hold`].

mod layout;
mod load_balancer;
mod plan;
mod proxy;
mod table;
#[cfg(test)]
mod tests;

pub use load_balancer::ServiceLoadBalancers;
pub use proxy::{ServiceProxy, ServiceProxyConfig, ServiceProxyError};
