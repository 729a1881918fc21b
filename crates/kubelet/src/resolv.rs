//! `/etc/resolv.conf` of a pod: its DNS policy, its own settings, and the
//! limits that the resolver libraries have.

use std::net::IpAddr;

use api::types::api::core::v1 as core;
use containers::runtime::DnsConfig;

use crate::spec;

/// Most `nameserver` lines.
const MAX_SERVERS: usize = 3;
/// Most search domains.
const MAX_SEARCHES: usize = 32;
/// Longest search line, bytes.
const MAX_SEARCH_BYTES: usize = 2048;
/// Longest one domain, bytes.
const MAX_DOMAIN_BYTES: usize = 253;

/// A setting that was cut, as an event tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Omitted(pub(crate) String);

/// The machine's own settings.
pub(crate) fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("nameserver") => config.servers.extend(fields.next().map(str::to_owned)),
            Some("search") => {
                config.searches = fields.filter(|s| *s != ".").map(|s| s.trim_end_matches('.').to_owned()).collect();
            }
            Some("options") => merge_options(&mut config.options, fields.map(str::to_owned)),
            _ => {}
        }
    }
    config
}

fn option_name(option: &str) -> &str {
    option.split(':').next().unwrap_or(option)
}

fn merge_options(options: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for option in more {
        options.retain(|o| option_name(o) != option_name(&option));
        options.push(option);
    }
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// The pod's settings, and what was left out.
pub(crate) fn of_pod(
    pod: &core::Pod,
    host: &DnsConfig,
    cluster_dns: &[IpAddr],
    domain: &str,
) -> (DnsConfig, Vec<Omitted>) {
    let policy = spec::spec(pod).dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "None" => None,
        "Default" => Some(false),
        "ClusterFirst" => Some(!spec::host_network(pod)),
        _ => Some(true),
    };
    let mut config = match cluster {
        None => DnsConfig::default(),
        Some(true) if !cluster_dns.is_empty() => {
            let mut searches =
                vec![format!("{}.svc.{domain}", spec::namespace(pod)), format!("svc.{domain}"), domain.to_owned()];
            searches.extend(host.searches.iter().cloned());
            unique(&mut searches);
            DnsConfig {
                servers: cluster_dns.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        Some(_) => host.clone(),
    };
    if let Some(own) = &spec::spec(pod).dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        unique(&mut config.servers);
        config.searches.extend(own.searches.iter().flatten().cloned());
        unique(&mut config.searches);
        let options = own.options.iter().flatten().map(|o| match o.value.as_deref().filter(|v| !v.is_empty()) {
            Some(value) => format!("{}:{value}", o.name.as_deref().unwrap_or_default()),
            None => o.name.clone().unwrap_or_default(),
        });
        merge_options(&mut config.options, options);
    }
    let omitted = fit(&mut config);
    (config, omitted)
}

fn fit(config: &mut DnsConfig) -> Vec<Omitted> {
    let mut omitted = Vec::new();
    if config.servers.len() > MAX_SERVERS {
        config.servers.truncate(MAX_SERVERS);
        omitted.push(Omitted(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            config.servers.join(" ")
        )));
    }
    let before = config.searches.len();
    config.searches.truncate(MAX_SEARCHES);
    config.searches.retain(|s| s.len() <= MAX_DOMAIN_BYTES);
    while config.searches.join(" ").len() > MAX_SEARCH_BYTES {
        config.searches.pop();
    }
    if config.searches.len() != before {
        omitted.push(Omitted(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            config.searches.join(" ")
        )));
    }
    omitted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(spec: serde_json::Value) -> DnsConfig {
        let pod: core::Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "ns"}, "spec": spec})).expect("a pod");
        let host = parse("# c\nnameserver 9.9.9.9\nsearch host.test.\noptions ndots:1 timeout:2\n");
        of_pod(&pod, &host, &["10.0.0.10".parse().expect("an address")], "cluster.local").0
    }

    #[test]
    fn the_policy_chooses_cluster_host_or_nothing() {
        let cluster = of(json!({"containers": []}));
        assert_eq!(cluster.servers, ["10.0.0.10"]);
        assert_eq!(cluster.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "host.test"]);
        assert_eq!(cluster.options, ["ndots:5"]);
        let host = of(json!({"containers": [], "dnsPolicy": "Default"}));
        assert_eq!((host.servers, host.searches), (vec!["9.9.9.9".to_owned()], vec!["host.test".to_owned()]));
        assert_eq!(of(json!({"containers": [], "hostNetwork": true})).servers, ["9.9.9.9"]);
        assert_eq!(
            of(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})).servers,
            ["10.0.0.10"]
        );
        assert_eq!(of(json!({"containers": [], "dnsPolicy": "None"})), DnsConfig::default());
    }

    #[test]
    fn own_settings_are_merged_and_cut_to_the_limits() {
        let merged = of(
            json!({"containers": [], "dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3"], "searches": ["x.test"],
            "options": [{"name": "ndots", "value": "3"}, {"name": "edns0"}]}}),
        );
        assert_eq!(merged.servers, ["10.0.0.10", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(merged.searches.last().map(String::as_str), Some("x.test"));
        assert_eq!(merged.options, ["ndots:3", "edns0"]);
    }
}
