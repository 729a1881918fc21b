//! What the node, its pods and containers use: the summary API, and the metrics
//! endpoints in the Prometheus text format under upstream's names. Measured when
//! asked; nothing is sampled in between.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::types::api::core::v1::Pod;
use containers::runtime::{ContainerState, ContainerStats, ContainerStatus};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::labels;
use crate::machine;
use crate::node_api::NodeApi;
use crate::spec;

/// Shortest time over which a rate is measured; asked again sooner, the last
/// rate stands.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// Things whose rate is remembered at most; a node has 110 pods by default.
const RATES: usize = 10_000;
/// Kernel clock ticks per second, as `/proc/stat` counts (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// One container's figures.
struct ContainerFigures {
    status: ContainerStatus,
    started: SystemTime,
    stats: ContainerStats,
}

/// One pod's figures.
struct PodFigures {
    pod: Arc<Pod>,
    containers: Vec<ContainerFigures>,
    /// The pod's own cgroup, or the sum of its containers.
    stats: ContainerStats,
}

/// Everything at one moment.
pub(super) struct Figures {
    time: SystemTime,
    node_name: String,
    node: ContainerStats,
    memory_total: u64,
    boot: SystemTime,
    disk: Option<(u64, u64, u64, u64)>,
    pods: Vec<PodFigures>,
}

/// Remembers cumulative CPU time, to tell rates.
#[derive(Default)]
pub(super) struct Rates {
    seen: Mutex<HashMap<String, Seen>>,
}

struct Seen {
    at: Instant,
    cpu_ns: u64,
    rate: u64,
}

impl Rates {
    /// CPU nanoseconds per second since the last question; on the first, since
    /// `started`.
    fn rate(&self, key: String, cpu_ns: u64, started: SystemTime) -> u64 {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let per_second = |ns: u64, time: Duration| {
            u64::try_from(u128::from(ns) * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(0)
        };
        let rate = match seen.get(&key) {
            Some(last) if now.duration_since(last.at) < RATE_WINDOW => return last.rate,
            Some(last) => per_second(cpu_ns.saturating_sub(last.cpu_ns), now.duration_since(last.at)),
            None => per_second(cpu_ns, started.elapsed().unwrap_or(RATE_WINDOW).max(RATE_WINDOW)),
        };
        if seen.len() >= RATES {
            seen.clear();
        }
        seen.insert(key, Seen { at: now, cpu_ns, rate });
        rate
    }
}

impl Figures {
    /// Measures everything now. What has ended meanwhile is left out.
    pub(super) async fn measure(node: &NodeApi) -> Self {
        let mut by_pod: HashMap<String, Vec<ContainerFigures>> = HashMap::new();
        for status in node.containers().await {
            let ContainerState::Running { started, .. } = status.state else { continue };
            if let Ok(stats) = node.runtime().stats(&status.id).await {
                let uid = status.labels.get(labels::POD_UID).cloned().unwrap_or_default();
                by_pod.entry(uid).or_default().push(ContainerFigures { status, started, stats });
            }
        }
        let mut pods = Vec::new();
        for pod in node.pods() {
            let mut containers = by_pod.remove(spec::uid(&pod)).unwrap_or_default();
            if containers.is_empty() {
                continue;
            }
            containers.sort_by(|a, b| a.status.name.cmp(&b.status.name));
            let stats = match node.runtime().cgroup_stats(&node.pod_cgroup(&pod)).await {
                Ok(stats) => stats,
                Err(_) => containers.iter().fold(ContainerStats::default(), |mut sum, container| {
                    add(&mut sum, &container.stats);
                    sum
                }),
            };
            pods.push(PodFigures { pod, containers, stats });
        }
        let bytes = |name: &str| u64::try_from(machine::memory_info(name)).unwrap_or(0);
        let (total, available) = (bytes("MemTotal"), bytes("MemAvailable"));
        let (cpu_usage_ns, boot) = node_cpu();
        let node_stats = ContainerStats {
            cpu_usage_ns,
            memory_usage_bytes: total.saturating_sub(bytes("MemFree")),
            memory_working_set_bytes: total.saturating_sub(available),
            memory_rss_bytes: bytes("AnonPages"),
            ..ContainerStats::default()
        };
        let disk = machine::disk(node.config())
            .map(|disk| (disk.total_bytes, disk.available_bytes, disk.total_inodes, disk.free_inodes));
        Self {
            time: SystemTime::now(),
            node_name: node.config().node_name.clone(),
            node: node_stats,
            memory_total: total,
            boot,
            disk,
            pods,
        }
    }

    /// `stats/v1alpha1 Summary`.
    pub(super) fn summary(&self, rates: &Rates) -> Value {
        let time = rfc3339(self.time);
        let cpu = |key: String, stats: &ContainerStats, started| {
            json!({
                "time": time,
                "usageNanoCores": rates.rate(key, stats.cpu_usage_ns, started),
                "usageCoreNanoSeconds": stats.cpu_usage_ns,
            })
        };
        let memory = |stats: &ContainerStats| {
            json!({
                "time": time,
                "usageBytes": stats.memory_usage_bytes,
                "workingSetBytes": stats.memory_working_set_bytes,
                "rssBytes": stats.memory_rss_bytes,
                "pageFaults": stats.page_faults,
                "majorPageFaults": stats.major_page_faults,
            })
        };
        let file_system = |used: Option<(u64, u64)>| {
            let Some((total, free, inodes, free_inodes)) = self.disk else { return Value::Null };
            let (used, used_inodes) = used.unwrap_or((total.saturating_sub(free), inodes.saturating_sub(free_inodes)));
            json!({
                "time": time, "availableBytes": free, "capacityBytes": total, "usedBytes": used,
                "inodesFree": free_inodes, "inodes": inodes, "inodesUsed": used_inodes,
            })
        };
        let pods: Vec<_> = self
            .pods
            .iter()
            .map(|figures| {
                let uid = spec::uid(&figures.pod);
                let containers: Vec<_> = figures
                    .containers
                    .iter()
                    .map(|container| {
                        let stats = &container.stats;
                        json!({
                            "name": container.status.name,
                            "startTime": rfc3339(container.started),
                            "cpu": cpu(container.status.id.0.clone(), stats, container.started),
                            "memory": memory(stats),
                            "rootfs": file_system(Some((stats.rootfs_used_bytes, stats.rootfs_inodes_used))),
                        })
                    })
                    .collect();
                let started = figures.containers.iter().map(|c| c.started).min().unwrap_or(self.time);
                let used = figures.containers.iter().fold((0, 0), |(bytes, inodes), c| {
                    (bytes + c.stats.rootfs_used_bytes, inodes + c.stats.rootfs_inodes_used)
                });
                json!({
                    "podRef": {"name": spec::name(&figures.pod), "namespace": spec::namespace(&figures.pod), "uid": uid},
                    "startTime": rfc3339(started),
                    "containers": containers,
                    "cpu": cpu(uid.to_owned(), &figures.stats, started),
                    "memory": memory(&figures.stats),
                    "ephemeral-storage": file_system(Some(used)),
                    "process_stats": {"process_count": figures.stats.process_count},
                })
            })
            .collect();
        let mut node_memory = memory(&self.node);
        node_memory["availableBytes"] = json!(self.memory_total.saturating_sub(self.node.memory_working_set_bytes));
        json!({
            "node": {
                "nodeName": self.node_name,
                "startTime": rfc3339(self.boot),
                "cpu": cpu(String::new(), &self.node, self.boot),
                "memory": node_memory,
                "fs": file_system(None),
                "runtime": {"imageFs": file_system(None), "containerFs": file_system(None)},
            },
            "pods": pods,
        })
    }

    /// `/metrics/resource`.
    pub(super) fn resource_metrics(&self) -> String {
        let mut text = Text::new(self.time);
        text.family(
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        );
        self.each_container(|labels, container| text.value(labels, seconds(container.stats.cpu_usage_ns)));
        text.family(
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
        );
        self.each_container(|labels, container| text.value(labels, container.stats.memory_working_set_bytes));
        text.family(
            "container_start_time_seconds",
            "gauge",
            "[STABLE] Start time of the container since unix epoch in seconds",
        );
        self.each_container(|labels, container| text.value(labels, unix_seconds(container.started)));
        text.family(
            "node_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        );
        text.value("", seconds(self.node.cpu_usage_ns));
        text.family("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes");
        text.value("", self.node.memory_working_set_bytes);
        text.family(
            "pod_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        );
        self.each_pod(|labels, figures| text.value(labels, seconds(figures.stats.cpu_usage_ns)));
        text.family("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
        self.each_pod(|labels, figures| text.value(labels, figures.stats.memory_working_set_bytes));
        text.family(
            "resource_scrape_error",
            "gauge",
            "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        );
        text.now = None;
        text.value("", 0);
        text.text
    }

    /// `/metrics/cadvisor`.
    pub(super) fn cadvisor_metrics(&self) -> String {
        let mut text = Text::new(self.time);
        let families: [(&str, &str, &str, fn(&ContainerFigures) -> String); 8] = [
            ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| {
                seconds(c.stats.cpu_usage_ns)
            }),
            ("container_last_seen", "gauge", "Last time a container was seen by the exporter", |_| {
                unix_seconds(SystemTime::now())
            }),
            ("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", |c| {
                c.stats.page_faults.to_string()
            }),
            ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| c.stats.memory_rss_bytes.to_string()),
            (
                "container_memory_usage_bytes",
                "gauge",
                "Current memory usage in bytes, including all memory regardless of when it was accessed",
                |c| c.stats.memory_usage_bytes.to_string(),
            ),
            ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| {
                c.stats.memory_working_set_bytes.to_string()
            }),
            ("container_processes", "gauge", "Number of processes running inside the container.", |c| {
                c.stats.process_count.to_string()
            }),
            (
                "container_start_time_seconds",
                "gauge",
                "Start time of the container since unix epoch in seconds.",
                |c| unix_seconds(c.started),
            ),
        ];
        for (name, kind, help, value) in families {
            text.family(name, kind, help);
            for figures in &self.pods {
                for container in &figures.containers {
                    let mut labels = BTreeMap::from([
                        ("container", container.status.name.as_str()),
                        ("id", container.status.id.0.as_str()),
                        ("image", container.status.image.as_str()),
                        ("name", container.status.id.0.as_str()),
                        ("namespace", spec::namespace(&figures.pod)),
                        ("pod", spec::name(&figures.pod)),
                    ]);
                    if name == "container_cpu_usage_seconds_total" {
                        labels.insert("cpu", "total");
                    }
                    text.value(&render(&labels), value(container));
                }
            }
        }
        text.text
    }

    /// `/metrics`: the agent's own counts.
    pub(super) fn own_metrics(&self, pods: usize) -> String {
        let mut text = Text::new(self.time);
        text.now = None;
        text.family("kubelet_active_pods", "gauge", "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods.");
        text.value("", pods);
        text.family("kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running pod sandbox");
        text.value("", self.pods.len());
        text.family("kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
        let containers: usize = self.pods.iter().map(|figures| figures.containers.len()).sum();
        text.value("container_state=\"running\"", containers);
        text.text
    }

    fn each_container(&self, mut each: impl FnMut(&str, &ContainerFigures)) {
        for figures in &self.pods {
            for container in &figures.containers {
                let labels = BTreeMap::from([
                    ("container", container.status.name.as_str()),
                    ("namespace", spec::namespace(&figures.pod)),
                    ("pod", spec::name(&figures.pod)),
                ]);
                each(&render(&labels), container);
            }
        }
    }

    fn each_pod(&self, mut each: impl FnMut(&str, &PodFigures)) {
        for figures in &self.pods {
            let labels =
                BTreeMap::from([("namespace", spec::namespace(&figures.pod)), ("pod", spec::name(&figures.pod))]);
            each(&render(&labels), figures);
        }
    }
}

fn add(sum: &mut ContainerStats, more: &ContainerStats) {
    sum.cpu_usage_ns += more.cpu_usage_ns;
    sum.memory_usage_bytes += more.memory_usage_bytes;
    sum.memory_working_set_bytes += more.memory_working_set_bytes;
    sum.memory_rss_bytes += more.memory_rss_bytes;
    sum.page_faults += more.page_faults;
    sum.major_page_faults += more.major_page_faults;
    sum.process_count += more.process_count;
}

/// The machine's busy time, nanoseconds, and when it started.
fn node_cpu() -> (u64, SystemTime) {
    let table = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().filter_map(|number| number.parse::<u64>().ok()).collect::<Vec<_>>()
    };
    // user nice system idle iowait irq softirq steal
    let ticks = line("cpu ");
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| ticks.get(*index)).sum();
    let boot = line("btime ").first().copied().unwrap_or(0);
    (busy * (1_000_000_000 / TICKS_PER_SECOND), UNIX_EPOCH + Duration::from_secs(boot))
}

/// With microseconds: rates are told between two of these.
fn rfc3339(time: SystemTime) -> String {
    api::time::format_micro(Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

fn unix_seconds(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:03}", since.as_secs(), since.subsec_millis())
}

fn render(labels: &BTreeMap<&str, &str>) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let parts: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    parts.join(",")
}

/// The Prometheus text format.
struct Text {
    text: String,
    name: String,
    now: Option<u128>,
}

impl Text {
    fn new(time: SystemTime) -> Self {
        let now = time.duration_since(UNIX_EPOCH).map(|since| since.as_millis()).ok();
        Self { text: String::new(), name: String::new(), now }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.name = name.to_owned();
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn value(&mut self, labels: &str, value: impl std::fmt::Display) {
        let name = self.name.clone();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        match self.now {
            Some(now) => self.line(format_args!("{name}{labels} {value} {now}")),
            None => self.line(format_args!("{name}{labels} {value}")),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a string cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_escaped_and_carry_their_time() {
        let mut text = Text::new(UNIX_EPOCH + Duration::from_millis(1500));
        text.family("a_total", "counter", "What.");
        text.value(&render(&BTreeMap::from([("x", "a\"b\\c\nd")])), seconds(1_500_000_000));
        assert_eq!(
            text.text,
            "# HELP a_total What.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\"} 1.500000000 1500\n"
        );
    }

    #[test]
    fn the_machine_has_been_busy_since_it_started() {
        let (busy, boot) = node_cpu();
        assert!(busy > 0 && boot > UNIX_EPOCH && boot < SystemTime::now());
    }
}
