//! The level `baseline`: nothing that reaches into the node.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Bad, Violation, containers, has_own_users, named, plural, quoted, setters, these};
use crate::object::{self, Meta};

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Safe kernel parameters and the release from which on they are.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

pub(super) fn app_armor(pod: &Value, _minor: u32) -> Option<Violation> {
    let bad = Bad::of(pod, "appArmorProfile", "type", |kind| matches!(kind, "RuntimeDefault" | "Localhost"));
    let mut annotations: Vec<String> = Vec::new();
    for (key, value) in pod.meta("annotations").as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let allowed = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if key.starts_with(APP_ARMOR) && !allowed {
            annotations.push(format!("{key}=\"{value}\""));
        }
    }
    if bad.is_empty() && annotations.is_empty() {
        return None;
    }
    let mut who = setters(bad.pod, &bad.containers);
    if !annotations.is_empty() {
        let word = plural("annotation", annotations.len());
        who = if who.is_empty() { word } else { format!("{who} and {word}") };
    }
    annotations.sort();
    let values: Vec<String> = bad.values.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", values.len());
    Violation::new(reason, format!("{who} must not set AppArmor profile type to {}", quoted(values)))
}

pub(super) fn capabilities(pod: &Value, _minor: u32) -> Option<Violation> {
    let mut added = BTreeSet::new();
    let bad = named(pod, |container| {
        let adds = object::items(container, "securityContext.capabilities.add").iter().filter_map(Value::as_str);
        let forbidden: Vec<&str> = adds.filter(|one| !CAPABILITIES.contains(one)).collect();
        added.extend(forbidden.iter().map(|one| (*one).to_owned()));
        !forbidden.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let who = these("container", &bad);
    let detail = format!("{who} must not include {} in securityContext.capabilities.add", quoted(added));
    Violation::new("non-default capabilities", detail)
}

pub(super) fn host_namespaces(pod: &Value, _minor: u32) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"];
    let set: Vec<String> =
        fields.iter().filter(|field| pod["spec"][**field] == true).map(|field| format!("{field}=true")).collect();
    if set.is_empty() { None } else { Violation::new("host namespaces", set.join(", ")) }
}

pub(super) fn host_path_volumes(pod: &Value, _minor: u32) -> Option<Violation> {
    let host = object::items(pod, "spec.volumes").iter().filter(|volume| volume["hostPath"].is_object());
    let names: Vec<String> = host.map(|volume| object::text(volume, "name").to_owned()).collect();
    if names.is_empty() { None } else { Violation::new("hostPath volumes", these("volume", &names)) }
}

pub(super) fn host_ports(pod: &Value, _minor: u32) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = named(pod, |container| {
        let used = object::items(container, "ports").iter().filter_map(|port| port["hostPort"].as_i64());
        let used: Vec<String> = used.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        let bad = !used.is_empty();
        ports.extend(used);
        bad
    });
    if bad.is_empty() {
        return None;
    }
    let verb = if bad.len() == 1 { "uses" } else { "use" };
    let noun = plural("hostPort", ports.len());
    let ports: Vec<String> = ports.into_iter().collect();
    Violation::new("hostPort", format!("{} {verb} {noun} {}", these("container", &bad), ports.join(", ")))
}

pub(super) fn probe_hosts(pod: &Value, _minor: u32) -> Option<Violation> {
    const HANDLERS: [&str; 5] =
        ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"];
    let (mut bad, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in containers(pod) {
        for handler in HANDLERS {
            for action in ["httpGet.host", "tcpSocket.host"] {
                let host = object::text(object::at(container, handler), action);
                if !host.is_empty() {
                    bad.insert(object::text(container, "name").to_owned());
                    hosts.insert(host);
                }
            }
        }
    }
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<String> = bad.into_iter().collect();
    let verb = if bad.len() == 1 { "uses" } else { "use" };
    let noun = plural("probe or lifecycle host", hosts.len());
    let detail = format!("{} {verb} {noun} {}", these("container", &bad), quoted(hosts));
    Violation::new("probe or lifecycle host", detail)
}

pub(super) fn privileged(pod: &Value, _minor: u32) -> Option<Violation> {
    let bad = named(pod, |container| object::at(container, "securityContext.privileged") == true);
    if bad.is_empty() {
        return None;
    }
    Violation::new("privileged", format!("{} must not set securityContext.privileged=true", these("container", &bad)))
}

pub(super) fn proc_mount(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 35 && has_own_users(pod) {
        return None;
    }
    any_proc_mount(pod)
}

pub(super) fn any_proc_mount(pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = named(pod, |container| {
        let kind = object::at(container, "securityContext.procMount").as_str().filter(|kind| *kind != "Default");
        kinds.extend(kind.map(str::to_owned));
        kind.is_some()
    });
    if bad.is_empty() {
        return None;
    }
    let who = these("container", &bad);
    Violation::new("procMount", format!("{who} must not set securityContext.procMount to {}", quoted(kinds)))
}

pub(super) fn se_linux_options(pod: &Value, minor: u32) -> Option<Violation> {
    let allowed = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || minor >= 31 && kind == "container_engine_t"
    };
    let (mut kinds, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |context: &Value| {
        let text = |field: &str| object::text(object::at(context, "seLinuxOptions"), field);
        let (kind, has_user, has_role) = (text("type"), !text("user").is_empty(), !text("role").is_empty());
        if !allowed(kind) {
            kinds.insert(kind.to_owned());
        }
        user |= has_user;
        role |= has_role;
        !allowed(kind) || has_user || has_role
    };
    let in_pod = is_bad(object::at(pod, "spec.securityContext"));
    let bad = named(pod, |container| is_bad(&container["securityContext"]));
    if !in_pod && bad.is_empty() {
        return None;
    }
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural("type", kinds.len()), quoted(kinds)));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    let who = setters(in_pod, &bad);
    Violation::new("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

pub(super) fn seccomp_profile(pod: &Value, minor: u32) -> Option<Violation> {
    if minor < 19 {
        return seccomp_annotations(pod);
    }
    let bad = Bad::of(pod, "seccompProfile", "type", is_confined);
    if bad.is_empty() {
        return None;
    }
    let who = setters(bad.pod, &bad.containers);
    let values = quoted(bad.values);
    Violation::new("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {values}"))
}

/// A profile that filters system calls.
pub(super) fn is_confined(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

/// The form before the field existed.
fn seccomp_annotations(pod: &Value) -> Option<Violation> {
    let mut forbidden = BTreeSet::new();
    let own = containers(pod).map(|container| format!("{SECCOMP_CONTAINER}{}", object::text(container, "name")));
    for key in std::iter::once(SECCOMP.to_owned()).chain(own) {
        let Some(value) = pod.annotation(&key) else { continue };
        let allowed = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
        if !allowed {
            forbidden.insert(format!("{key}=\"{value}\""));
        }
    }
    if forbidden.is_empty() {
        return None;
    }
    let noun = plural("annotation", forbidden.len());
    let all: Vec<String> = forbidden.into_iter().collect();
    Violation::new("seccompProfile", format!("forbidden {noun} {}", all.join(", ")))
}

pub(super) fn sysctls(pod: &Value, minor: u32) -> Option<Violation> {
    let names = object::items(pod, "spec.securityContext.sysctls").iter().filter_map(|one| one["name"].as_str());
    let safe = |name: &str| SYSCTLS.iter().any(|(known, from)| *known == name && *from <= minor);
    let forbidden: Vec<&str> = names.filter(|name| !safe(name)).collect();
    if forbidden.is_empty() { None } else { Violation::new("forbidden sysctls", forbidden.join(", ")) }
}

pub(super) fn windows_host_process(pod: &Value, _minor: u32) -> Option<Violation> {
    let sets = |context: &Value| object::at(context, "windowsOptions.hostProcess") == true;
    let in_pod = sets(object::at(pod, "spec.securityContext"));
    let bad = named(pod, |container| sets(&container["securityContext"]));
    if !in_pod && bad.is_empty() {
        return None;
    }
    let who = setters(in_pod, &bad);
    Violation::new("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
