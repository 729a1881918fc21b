//! A pod's name in its network: host name, domain, and `/etc/hosts`.

use std::fmt::Write as _;
use std::net::IpAddr;

use api::types::api::core::v1 as core;

use crate::spec;

/// Longest host name, bytes.
const MAX_HOSTNAME_BYTES: usize = 63;
/// Longest name that the kernel takes, bytes.
const MAX_KERNEL_NAME_BYTES: usize = 64;

/// Why a pod has no host name.
#[derive(thiserror::Error, Debug)]
pub(crate) enum HostnameError {
    /// Nothing is left of it.
    #[error("hostname for pod {pod:?} was invalid: {hostname:?}")]
    Invalid {
        /// Pod name.
        pod: String,
        /// As given.
        hostname: String,
    },
    /// `setHostnameAsFQDN` with a name that the kernel does not take.
    #[error("failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({MAX_KERNEL_NAME_BYTES} characters is the max, {} characters requested)", fqdn.len())]
    TooLong {
        /// The full name.
        fqdn: String,
    },
}

/// Host name and domain; the domain is empty without a subdomain.
pub(crate) fn of_pod(pod: &core::Pod, cluster_domain: &str) -> Result<(String, String), HostnameError> {
    let spec = spec::spec(pod);
    if let Some(name) = spec.hostname_override.as_deref() {
        return Ok((truncate(pod, name)?, String::new()));
    }
    let own = spec.hostname.as_deref().filter(|h| !h.is_empty());
    let name = truncate(pod, own.unwrap_or_else(|| spec::name(pod)))?;
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        None => String::new(),
    };
    Ok((name, domain))
}

fn truncate(pod: &core::Pod, name: &str) -> Result<String, HostnameError> {
    if name.len() <= MAX_HOSTNAME_BYTES {
        return Ok(name.into());
    }
    let mut end = MAX_HOSTNAME_BYTES;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let cut = name[..end].trim_end_matches(['-', '.']);
    if cut.is_empty() {
        return Err(HostnameError::Invalid { pod: spec::name(pod).into(), hostname: name.into() });
    }
    Ok(cut.into())
}

/// The name that the kernel gets.
pub(crate) fn for_kernel(pod: &core::Pod, cluster_domain: &str) -> Result<String, HostnameError> {
    let (name, domain) = of_pod(pod, cluster_domain)?;
    if spec::spec(pod).set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(name);
    }
    let fqdn = format!("{name}.{domain}");
    if fqdn.len() > MAX_KERNEL_NAME_BYTES {
        return Err(HostnameError::TooLong { fqdn });
    }
    Ok(fqdn)
}

/// `/etc/hosts` of a pod with its own network.
pub(crate) fn pod_hosts(ips: &[IpAddr], name: &str, domain: &str, pod: &core::Pod) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        // Writing to a string cannot fail.
        let _written = if domain.is_empty() {
            writeln!(text, "{ip}\t{name}")
        } else {
            writeln!(text, "{ip}\t{name}.{domain}\t{name}")
        };
    }
    text.push_str(&aliases(pod));
    text
}

/// `/etc/hosts` of a pod on the machine's network.
pub(crate) fn node_hosts(own: &str, pod: &core::Pod) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{own}{}", aliases(pod))
}

fn aliases(pod: &core::Pod) -> String {
    let mut text = String::new();
    for alias in spec::spec(pod).host_aliases.iter().flatten() {
        if text.is_empty() {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        let _written = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, spec: serde_json::Value) -> core::Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn names_follow_hostname_subdomain_and_override() {
        let check = |spec: serde_json::Value, expected: (&str, &str)| {
            let (name, domain) = of_pod(&pod("p", spec), "cluster.local").expect("a name");
            assert_eq!((name.as_str(), domain.as_str()), expected);
        };
        check(json!({"containers": []}), ("p", ""));
        check(json!({"containers": [], "hostname": "h", "subdomain": "s"}), ("h", "s.ns.svc.cluster.local"));
        check(json!({"containers": [], "hostname": "h", "subdomain": "s", "hostnameOverride": "o.x"}), ("o.x", ""));
    }

    #[test]
    fn a_long_name_is_cut_and_a_long_full_name_refused() {
        let long = pod(&format!("{}-x", "a".repeat(62)), json!({"containers": []}));
        assert_eq!(of_pod(&long, "c").expect("a name").0, "a".repeat(62));
        let full = pod(
            "p",
            json!({"containers": [], "hostname": "h".repeat(40), "subdomain": "s".repeat(40), "setHostnameAsFQDN": true}),
        );
        let text = for_kernel(&full, "cluster.local").expect_err("too long").to_string();
        assert!(text.ends_with("is too long (64 characters is the max, 102 characters requested)"), "{text}");
    }
}
