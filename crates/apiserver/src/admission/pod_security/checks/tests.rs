//! What each level says about a pod.

use serde_json::json;

use super::*;

fn says(level: Level, version: Option<u32>, spec: Value) -> String {
    details(&violations(Rung { level, version }, &json!({"metadata": {}, "spec": spec})))
}

fn hardened() -> Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
    })
}

#[test]
fn a_hardened_pod_passes_the_strictest_level() {
    assert_eq!(says(Level::Restricted, None, hardened()), "");
}

#[test]
fn a_plain_pod_passes_baseline_and_lacks_what_restricted_asks() {
    let plain = json!({"containers": [{"name": "c"}]});
    assert_eq!(says(Level::Baseline, None, plain.clone()), "");
    assert_eq!(
        says(Level::Restricted, None, plain.clone()),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert!(!says(Level::Restricted, Some(20), plain).contains("capabilities"));
}

#[test]
fn baseline_keeps_pods_off_the_node() {
    let check = |spec: Value, expected: &str| assert_eq!(says(Level::Baseline, None, spec), expected);
    let container = |fields: Value| json!({"containers": [{"name": "a"}, fields]});
    check(json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)");
    check(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath volumes (volume \"v\")");
    check(
        container(json!({"name": "b", "securityContext": {"privileged": true}})),
        "privileged (container \"b\" must not set securityContext.privileged=true)",
    );
    check(
        container(json!({"name": "b", "ports": [{"hostPort": 80}, {"hostPort": 443}]})),
        "hostPort (container \"b\" uses hostPorts 443, 80)",
    );
    check(
        container(json!({"name": "b", "securityContext": {"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}})),
        "non-default capabilities (container \"b\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
    );
    check(
        container(json!({"name": "b", "securityContext": {"procMount": "Unmasked"}})),
        "procMount (container \"b\" must not set securityContext.procMount to \"Unmasked\")",
    );
    check(
        json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
        "forbidden sysctls (kernel.msgmax)",
    );
    check(
        json!({"securityContext": {"seLinuxOptions": {"type": "x_t", "user": "u"}, "seccompProfile": {"type": "Unconfined"}}}),
        "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x_t\"; user may not be set), \
         seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
    );
    check(
        container(json!({"name": "b", "livenessProbe": {"httpGet": {"host": "1.2.3.4"}}})),
        "probe or lifecycle host (container \"b\" uses probe or lifecycle host \"1.2.3.4\")",
    );
    check(
        json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}, "windowsOptions": {"hostProcess": true}}}),
        "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\"), \
         hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
    );
}

#[test]
fn restricted_volumes_take_the_place_of_host_paths() {
    let mut pod = hardened();
    pod["volumes"] = json!([{"name": "h", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "c", "configMap": {}}]);
    assert_eq!(
        says(Level::Restricted, None, pod),
        "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")"
    );
}

#[test]
fn users_of_their_own_relax_the_rules_about_users() {
    let mut pod = hardened();
    pod["securityContext"]["runAsNonRoot"] = false.into();
    pod["securityContext"]["runAsUser"] = 0.into();
    assert!(says(Level::Restricted, None, pod.clone()).contains("runAsUser=0 (pod must not set runAsUser=0)"));
    pod["hostUsers"] = false.into();
    assert_eq!(says(Level::Restricted, None, pod), "");
}
