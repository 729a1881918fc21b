//! What must happen beside a write for a few kinds: addresses and ports of
//! services. Between validation and commit, and after.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use api::status::Status;
use serde_json::{Value, json};

use crate::allocate::{Refused, Slots};
use crate::custom;
use crate::field::{Errors, Path};
use crate::kinds::service;
use crate::object::{self, Meta, as_map, map_mut};
use crate::resource::Collection;
use crate::state::Core;

/// Something taken for a write that is given back unless the write succeeds.
#[must_use]
pub(crate) struct Reservation {
    pools: Option<Arc<Pools>>,
    addresses: Vec<u32>,
    ports: Vec<u32>,
}

impl Reservation {
    fn none() -> Self {
        Self { pools: None, addresses: Vec::new(), ports: Vec::new() }
    }

    /// The write succeeded.
    pub(crate) fn keep(mut self) {
        self.pools = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(pools) = self.pools.take() else { return };
        for address in self.addresses.drain(..) {
            lock(&pools.addresses).release(address);
        }
        for port in self.ports.drain(..) {
            lock(&pools.ports).release(port);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Marks what a stored service holds; two that hold the same keep it.
fn take_held(slots: &Mutex<Slots>, slot: u32) {
    if lock(slots).take(slot).is_err() {
        tracing::warn!(slot, "two services hold the same address or port");
    }
}

/// Addresses and ports of all services.
struct Pools {
    addresses: Mutex<Slots>,
    ports: Mutex<Slots>,
    network: Ipv4Addr,
    prefix: u8,
    first_port: u16,
    last_port: u16,
}

/// The hooks of one server.
pub(crate) struct Hooks {
    pools: Arc<Pools>,
}

/// Smallest prefix of a service network: 2^20 addresses are enough for anyone's
/// bitmap.
const SHORTEST_PREFIX: u8 = 12;

impl Hooks {
    /// Empty pools for these settings.
    pub(crate) fn new(settings: &crate::config::Settings) -> Self {
        let (network, prefix) = settings.service_cidr;
        let network = match network {
            IpAddr::V4(network) => network,
            // TODO-correctness: addresses of IPv6 services UNTIL dual stack is served.
            IpAddr::V6(_) => Ipv4Addr::new(10, 96, 0, 0),
        };
        let prefix = prefix.clamp(SHORTEST_PREFIX, 30);
        let hosts = (1u32 << (32 - prefix)) - 2;
        let static_addresses = (hosts / 16).clamp(16.min(hosts), 256);
        let (first_port, last_port) = (*settings.node_port_range.start(), *settings.node_port_range.end());
        let ports = u32::from(last_port.saturating_sub(first_port)) + 1;
        let static_ports = if ports < 16 { 0 } else { (ports / 32).clamp(16, 128).min(ports / 2) };
        Self {
            pools: Arc::new(Pools {
                addresses: Mutex::new(Slots::new(hosts, static_addresses)),
                ports: Mutex::new(Slots::new(ports, static_ports)),
                network,
                prefix,
                first_port,
                last_port,
            }),
        }
    }

    /// Marks what the services in the store hold.
    pub(crate) async fn repair(&self, core: &Core) -> Result<(), Status> {
        let services = core.collection("", "services")?;
        for service in crate::pipeline::write::all(core, &services, "").await? {
            for address in self.pools.addresses_of(&service.object) {
                take_held(&self.pools.addresses, address);
            }
            for port in self.pools.ports_of(&service.object) {
                take_held(&self.pools.ports, port);
            }
        }
        Ok(())
    }

    /// The address that the `kubernetes` service has: the first of the range.
    pub(crate) fn first_address(&self) -> Ipv4Addr {
        self.pools.address(0)
    }

    /// Before a new object is committed; may complete it.
    pub(crate) fn begin_create(
        &self,
        collection: &Collection,
        object: &mut Value,
        dry_run: bool,
    ) -> Result<Reservation, Status> {
        if !is_service(collection) {
            return Ok(Reservation::none());
        }
        self.complete(object, None, dry_run)
    }

    /// Before a changed object is committed; may complete it.
    pub(crate) fn begin_update(
        &self,
        collection: &Collection,
        new: &mut Value,
        old: &Value,
        dry_run: bool,
    ) -> Result<Reservation, Status> {
        if !is_service(collection) {
            return Ok(Reservation::none());
        }
        self.complete(new, Some(old), dry_run)
    }

    /// After a new object was committed.
    pub(crate) fn created(&self, core: &Core, collection: &Collection, object: &Value) {
        if custom::is_definition(collection) {
            custom::defined(core, object);
        }
    }

    /// After a changed object was committed.
    pub(crate) fn updated(&self, core: &Core, collection: &Collection, new: &Value, old: &Value) {
        if custom::is_definition(collection) {
            custom::defined(core, new);
        }
        if is_service(collection) {
            self.pools.release(old, Some(new));
        }
    }

    /// After an object is gone.
    pub(crate) fn deleted(&self, core: &Core, collection: &Collection, object: &Value) {
        if custom::is_definition(collection) {
            custom::undefined(core, object);
        }
        if is_service(collection) {
            self.pools.release(object, None);
        }
    }

    /// Takes what the service needs and does not have.
    fn complete(&self, service: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Reservation, Status> {
        let pools = &self.pools;
        let held_addresses = old.map(|old| pools.addresses_of(old)).unwrap_or_default();
        let held_ports = old.map(|old| pools.ports_of(old)).unwrap_or_default();
        let mut taken = Reservation::none();
        taken.pools = Some(Arc::clone(pools));
        let mut errors = Errors::new();
        if service::needs_address(service) {
            pools.take_address(service, &held_addresses, &mut taken, &mut errors);
        }
        if errors.is_empty() && service::needs_node_ports(service) {
            pools.take_ports(service, &held_ports, &mut taken, &mut errors);
        }
        if errors.is_empty() && service::needs_health_port(service) {
            pools.take_health_port(service, &held_ports, &mut taken, &mut errors);
        }
        if !errors.is_empty() {
            return Err(Status::invalid("", "Service", service.name(), errors.into_causes()));
        }
        if object::text(service, "spec.clusterIP") == "None" {
            map_mut(service, "spec").insert("clusterIPs".to_owned(), json!(["None"]));
        }
        if dry_run {
            // Given back at once; the answer shows what it would have been.
            drop(taken);
            return Ok(Reservation::none());
        }
        Ok(taken)
    }
}

fn is_service(collection: &Collection) -> bool {
    collection.group_resource.group.is_empty() && collection.group_resource.resource == "services"
}

impl Pools {
    fn address(&self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + slot + 1)
    }

    fn slot(&self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).checked_sub(u32::from(self.network))?;
        let hosts = (1u32 << (32 - self.prefix)) - 2;
        (1..=hosts).contains(&offset).then(|| offset - 1)
    }

    fn addresses_of(&self, service: &Value) -> Vec<u32> {
        if !service::needs_address(service) {
            return Vec::new();
        }
        let all = object::items(service, "spec.clusterIPs").iter().filter_map(Value::as_str);
        all.filter_map(|text| text.parse().ok()).filter_map(|address| self.slot(address)).collect()
    }

    fn port_slot(&self, port: i64) -> Option<u32> {
        let port = u16::try_from(port).ok()?;
        (self.first_port..=self.last_port).contains(&port).then(|| u32::from(port - self.first_port))
    }

    fn ports_of(&self, service: &Value) -> Vec<u32> {
        let ports = object::items(service, "spec.ports").iter().filter_map(|port| port["nodePort"].as_i64());
        let health = object::at(service, "spec.healthCheckNodePort").as_i64();
        ports.chain(health).filter_map(|port| self.port_slot(port)).collect()
    }

    fn release(&self, old: &Value, new: Option<&Value>) {
        let kept = new.map(|new| self.addresses_of(new)).unwrap_or_default();
        for address in self.addresses_of(old).into_iter().filter(|one| !kept.contains(one)) {
            lock(&self.addresses).release(address);
        }
        let kept = new.map(|new| self.ports_of(new)).unwrap_or_default();
        for port in self.ports_of(old).into_iter().filter(|one| !kept.contains(one)) {
            lock(&self.ports).release(port);
        }
    }

    fn take_address(&self, service: &mut Value, held: &[u32], taken: &mut Reservation, errors: &mut Errors) {
        let asked = object::text(service, "spec.clusterIP").to_owned();
        let spec_path = Path::new("spec");
        let ips = spec_path.child("clusterIPs");
        let address = if asked.is_empty() {
            let Some(slot) = lock(&self.addresses).take_any(crate::entropy::below) else {
                errors.invalid(&ips, &Value::Null, "failed to allocate a serviceIP: range is full");
                return;
            };
            taken.addresses.push(slot);
            self.address(slot)
        } else {
            let Ok(address) = asked.parse::<Ipv4Addr>() else {
                errors.invalid_text(
                    &ips.index(0),
                    &asked,
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                );
                return;
            };
            let slot = self.slot(address);
            if slot.is_none_or(|slot| !held.contains(&slot)) {
                let outcome = slot.map(|slot| lock(&self.addresses).take(slot));
                match (slot, outcome) {
                    (Some(slot), Some(Ok(()))) => taken.addresses.push(slot),
                    (_, Some(Err(Refused::Taken))) => {
                        let detail = format!("failed to allocate IP {asked}: provided IP is already allocated");
                        errors.invalid(&ips, &json!([asked]), &detail);
                        return;
                    }
                    _ => {
                        let detail = format!(
                            "failed to allocate IP {asked}: the provided network does not match the current range"
                        );
                        errors.invalid(&ips, &json!([asked]), &detail);
                        return;
                    }
                }
            }
            address
        };
        let spec = map_mut(service, "spec");
        spec.insert("clusterIP".to_owned(), address.to_string().into());
        spec.insert("clusterIPs".to_owned(), json!([address.to_string()]));
    }

    fn take_ports(&self, service: &mut Value, held: &[u32], taken: &mut Reservation, errors: &mut Errors) {
        let spec_path = Path::new("spec");
        let ports_path = spec_path.child("ports");
        let ports = map_mut(service, "spec").get_mut("ports").and_then(Value::as_array_mut);
        let mut given: Vec<(i64, String)> = Vec::new();
        for (index, port) in ports.into_iter().flatten().enumerate() {
            let path = ports_path.index(index);
            let asked = port["nodePort"].as_i64().unwrap_or(0);
            let number = port["port"].as_i64().unwrap_or(0);
            if asked == 0 {
                // One number serves the same port over both protocols.
                let shared = given.iter().find(|(_, key)| *key == format!("{number}")).map(|(node, _)| *node);
                let node = match shared {
                    Some(node) => node,
                    None => {
                        let Some(slot) = lock(&self.ports).take_any(crate::entropy::below) else {
                            errors.invalid(
                                &path.child("nodePort"),
                                &0.into(),
                                "failed to allocate a nodePort: range is full",
                            );
                            return;
                        };
                        taken.ports.push(slot);
                        i64::from(self.first_port) + i64::from(slot)
                    }
                };
                given.push((node, format!("{number}")));
                as_map(port).insert("nodePort".to_owned(), node.into());
            } else {
                if !given.iter().any(|(node, _)| *node == asked) {
                    self.take_port(asked, held, taken, &path.child("nodePort"), errors);
                }
                given.push((asked, String::new()));
            }
        }
    }

    fn take_port(&self, asked: i64, held: &[u32], taken: &mut Reservation, path: &Path<'_>, errors: &mut Errors) {
        let Some(slot) = self.port_slot(asked) else {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.first_port, self.last_port
            );
            errors.invalid(path, &asked.into(), &detail);
            return;
        };
        if held.contains(&slot) {
            return;
        }
        match lock(&self.ports).take(slot) {
            Ok(()) => taken.ports.push(slot),
            Err(_) => errors.invalid(path, &asked.into(), "provided port is already allocated"),
        }
    }

    fn take_health_port(&self, service: &mut Value, held: &[u32], taken: &mut Reservation, errors: &mut Errors) {
        let asked = object::at(service, "spec.healthCheckNodePort").as_i64().unwrap_or(0);
        let spec_path = Path::new("spec");
        if asked != 0 {
            self.take_port(asked, held, taken, &spec_path.child("healthCheckNodePort"), errors);
            return;
        }
        let Some(slot) = lock(&self.ports).take_any(crate::entropy::below) else { return };
        taken.ports.push(slot);
        let port = i64::from(self.first_port) + i64::from(slot);
        map_mut(service, "spec").insert("healthCheckNodePort".to_owned(), port.into());
    }
}
