//! The server dies the hard way: nothing that was acknowledged is lost, and no
//! container notices.

use std::time::Duration;

use super::harness::{Cluster, eventually};
use super::kubectl::Kubectl;
use super::{adoption, images, machine, traces, writes};

#[test]
fn containers_and_objects_outlive_a_kill_of_the_whole_server() {
    let mut cluster = Cluster::start(&[]);
    cluster.import(&images::busybox(&cluster.path(""), "test.local/busybox:1", &["sleep", "100000"]));
    let k = Kubectl::of(&cluster);
    k.ok("create configmap kept --from-literal=a=1");
    k.ok("run kept --image=test.local/busybox:1");
    k.ok("wait --for=condition=Ready pod/kept --timeout=30s");
    let identity = "get pod kept -o jsonpath={.status.containerStatuses[0].containerID}/{.status.containerStatuses[0].restartCount}/{.status.podIP}";
    let before = k.ok(identity);
    let uptime = k.ok("exec kept -- cat /proc/1/stat");
    cluster.kill_and_restart();
    assert_eq!(k.ok("get configmap kept -o jsonpath={.data.a}"), "1");
    assert_eq!(k.ok(identity), before);
    let after =
        eventually("exec after the restart", Duration::from_secs(10), || Some(k.ok("exec kept -- cat /proc/1/stat")));
    let started = |stat: &str| stat.split_whitespace().nth(21).unwrap().to_owned();
    assert_eq!(started(&after), started(&uptime), "the same process");
    k.ok("delete pod kept --grace-period=1 --timeout=20s");
}

#[test]
fn no_acknowledged_write_and_no_event_is_lost_in_three_kills() {
    let figures = writes::survive(3);
    println!("3 kills: {figures}");
}

#[test]
fn no_container_is_restarted_in_two_kills() {
    if machine::alone() {
        adoption::survive(2);
    }
}

#[test]
fn twenty_pods_leave_the_machine_as_it_was() {
    if machine::alone() {
        traces::leave_none(20);
    }
}
