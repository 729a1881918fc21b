//! The specification's records, one table.

use super::*;
use api::types::api::core::v1::{Namespace, Service};
use api::types::api::discovery::v1::EndpointSlice;
use client::Delta;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn service(name: &str, spec: Value) -> Arc<Service> {
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn slice(name: &str, service: &str, endpoints: Value) -> Arc<EndpointSlice> {
    let object = json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

pub(crate) fn directory() -> Directory {
    let mut directory = Directory::default();
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    directory.note_namespace(&Delta::Added(Arc::new(namespace)));
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let plain = json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd00::5"], "ports": ports});
    directory.note_service(&Delta::Added(service("web", plain)));
    directory.note_service(&Delta::Added(service("db", json!({"clusterIP": "None", "clusterIPs": ["None"]}))));
    directory.note_service(&Delta::Added(service("none", json!({"clusterIP": "None"}))));
    let external = json!({"type": "ExternalName", "externalName": "db.example.com"});
    directory.note_service(&Delta::Added(service("ext", external)));
    let inner = json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"});
    directory.note_service(&Delta::Added(service("alias", inner)));
    let loops = json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"});
    directory.note_service(&Delta::Added(service("loop", loops)));
    directory.note_slice(&Delta::Added(slice(
        "db-1",
        "db",
        json!([
            {"addresses": ["10.42.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.42.0.3"], "conditions": {}},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": false}},
        ]),
    )));
    directory
}

fn ask(directory: &Directory, name: &str, kind: RecordType) -> Option<String> {
    let zone = Zone::new("cluster.local").unwrap();
    let answer = zone.answer(directory, &Name::from_ascii(name).unwrap(), kind)?;
    let mut lines: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    lines.sort();
    let additionals: Vec<_> =
        answer.additionals.iter().map(|record| format!("+{} {}", record.name, record.data)).collect();
    lines.extend(additionals);
    if answer.answers.is_empty() {
        assert!(matches!(answer.authorities[0].data, RData::SOA(_)));
        lines.push(if answer.code == ResponseCode::NXDomain { "NXDOMAIN".into() } else { "NODATA".into() });
    }
    assert!(answer.answers.iter().all(|record| record.ttl == TTL));
    Some(lines.join(" | "))
}

#[test]
fn every_name_of_the_specification_has_its_records() {
    use RecordType::{A, AAAA, ANY, MX, PTR, SOA, SRV, TXT};
    let directory = directory();
    for (name, kind, expected) in [
        ("web.default.svc.cluster.local.", A, "10.43.0.5"),
        ("WEB.Default.svc.Cluster.local.", A, "10.43.0.5"),
        ("web.default.svc.cluster.local.", AAAA, "fd00::5"),
        ("web.default.svc.cluster.local.", MX, "NODATA"),
        (
            "_http._tcp.web.default.svc.cluster.local.",
            SRV,
            "0 100 80 web.default.svc.cluster.local. | +web.default.svc.cluster.local. 10.43.0.5 | \
             +web.default.svc.cluster.local. fd00::5",
        ),
        (
            "web.default.svc.cluster.local.",
            SRV,
            "0 50 53 web.default.svc.cluster.local. | 0 50 80 web.default.svc.cluster.local. | \
             +web.default.svc.cluster.local. 10.43.0.5 | +web.default.svc.cluster.local. fd00::5",
        ),
        ("_http._tcp.web.default.svc.cluster.local.", A, "NODATA"),
        ("_http._udp.web.default.svc.cluster.local.", SRV, "NXDOMAIN"),
        ("_tcp.web.default.svc.cluster.local.", SRV, "NODATA"),
        ("x.web.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("db.default.svc.cluster.local.", A, "10.42.0.2 | 10.42.0.3"),
        ("db.default.svc.cluster.local.", AAAA, "NODATA"),
        ("db-0.db.default.svc.cluster.local.", A, "10.42.0.2"),
        ("10-42-0-3.db.default.svc.cluster.local.", A, "10.42.0.3"),
        ("10-42-0-4.db.default.svc.cluster.local.", A, "NXDOMAIN"),
        (
            "_http._tcp.db.default.svc.cluster.local.",
            SRV,
            "0 50 8080 10-42-0-3.db.default.svc.cluster.local. | 0 50 8080 db-0.db.default.svc.cluster.local. | \
             +10-42-0-3.db.default.svc.cluster.local. 10.42.0.3 | +db-0.db.default.svc.cluster.local. 10.42.0.2",
        ),
        ("none.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("ext.default.svc.cluster.local.", A, "db.example.com."),
        ("missing.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("web.missing.svc.cluster.local.", A, "NXDOMAIN"),
        ("default.svc.cluster.local.", A, "NODATA"),
        ("missing.svc.cluster.local.", A, "NXDOMAIN"),
        ("svc.cluster.local.", A, "NODATA"),
        ("pod.cluster.local.", A, "NODATA"),
        ("other.cluster.local.", A, "NXDOMAIN"),
        ("10-42-0-9.default.pod.cluster.local.", A, "10.42.0.9"),
        ("10-42-0-9.default.pod.cluster.local.", AAAA, "NODATA"),
        ("10-42-0-9.missing.pod.cluster.local.", A, "NXDOMAIN"),
        ("10-42-0-999.default.pod.cluster.local.", A, "NXDOMAIN"),
        ("fd00--9.default.pod.cluster.local.", AAAA, "fd00::9"),
        ("dns-version.cluster.local.", TXT, "1.1.0"),
        ("dns-version.cluster.local.", A, "NODATA"),
        ("5.0.43.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local."),
        ("2.0.42.10.in-addr.arpa.", PTR, "db-0.db.default.svc.cluster.local."),
        ("5.0.43.10.in-addr.arpa.", A, "NODATA"),
        (
            "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            "web.default.svc.cluster.local.",
        ),
        ("web.default.svc.cluster.local.", ANY, "10.43.0.5 | fd00::5"),
    ] {
        assert_eq!(ask(&directory, name, kind).as_deref(), Some(expected), "{name} {kind}");
    }
    let soa = ask(&directory, "cluster.local.", SOA).unwrap();
    assert!(soa.starts_with("ns.dns.cluster.local. hostmaster.cluster.local. "), "{soa}");
    assert_eq!(ask(&directory, "cluster.local.", A).unwrap(), "NODATA");
    for elsewhere in ["example.com.", "local.", "9.9.9.9.in-addr.arpa.", "0.43.10.in-addr.arpa."] {
        assert_eq!(ask(&directory, elsewhere, A), None, "{elsewhere}");
    }
}

#[test]
fn names_follow_their_objects() {
    let mut directory = directory();
    let serial = directory.version();
    let old = slice("db-1", "db", json!([{"addresses": ["10.42.0.2"], "hostname": "db-0"}]));
    directory.note_slice(&Delta::Deleted(old));
    assert_eq!(ask(&directory, "db.default.svc.cluster.local.", RecordType::A).unwrap(), "NXDOMAIN");
    assert_eq!(ask(&directory, "2.0.42.10.in-addr.arpa.", RecordType::PTR), None);
    assert_ne!(directory.version(), serial);
    directory.note_service(&Delta::Deleted(service("web", json!({"clusterIP": "10.43.0.5"}))));
    assert_eq!(ask(&directory, "web.default.svc.cluster.local.", RecordType::A).unwrap(), "NXDOMAIN");
    assert_eq!(ask(&directory, "5.0.43.10.in-addr.arpa.", RecordType::PTR), None);
}
