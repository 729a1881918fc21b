//! Kinds that differ only in facts and a defaulting function: the table of
//! them. A kind that needs more gets a file and a strategy of its own.

use serde_json::Value;

use super::{admissionregistration, autoscaling, batch, config, networking, pod, storage, workloads};
use crate::object::{self, Meta};
use crate::strategy::{Column, Dependents, Generation, Part, Strategy, Write};
use crate::table;
use crate::validation::names::NameRule;

/// What a kind of the table says.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    /// Group and plural, under which its headings are found.
    group: &'static str,
    plural: &'static str,
    /// Fills in what the client left out.
    default: fn(&mut Value),
    /// Sets fields at creation.
    create: fn(&mut Value, &Write<'_>),
    /// Sets fields at an update.
    update: fn(&mut Value, &Value, &Write<'_>),
    generation: Generation,
    dependents: Dependents,
    reset: &'static [&'static str],
    name: NameRule,
    create_on_update: bool,
    unconditional_update: bool,
    returns_deleted: bool,
    status_writes_metadata: bool,
    selectable: &'static [&'static str],
    /// Columns between name and age: heading, type, priority, and the cell.
    columns: &'static [(&'static str, &'static str, i32, fn(&Value) -> Value)],
}

const PLAIN: Facts = Facts {
    group: "",
    plural: "",
    default: |_| {},
    create: |_, _| {},
    update: |_, _, _| {},
    generation: Generation::None,
    dependents: Dependents::Delete,
    reset: &["status"],
    name: NameRule::Subdomain,
    create_on_update: false,
    unconditional_update: true,
    returns_deleted: false,
    status_writes_metadata: true,
    selectable: &[],
    columns: &[],
};

const RBAC: Facts = Facts { name: NameRule::PathSegment, create_on_update: true, ..PLAIN };
const GENERATION: Facts = Facts { generation: Generation::Spec, ..PLAIN };

impl Facts {
    /// The facts of a resource.
    pub(super) fn of(group: &'static str, plural: &'static str) -> Self {
        Self { group, plural, ..Self::row(group, plural) }
    }

    fn row(group: &str, plural: &str) -> Self {
        match (group, plural) {
            ("", "configmaps") => Self { columns: config::MAP_COLUMNS, ..PLAIN },
            ("", "secrets") => {
                Self { default: config::secret, selectable: &["type"], columns: config::SECRET_COLUMNS, ..PLAIN }
            }
            ("", "serviceaccounts") => Self { returns_deleted: true, ..PLAIN },
            ("", "resourcequotas") => Self { returns_deleted: true, ..PLAIN },
            ("", "limitranges") => Self { create_on_update: true, default: config::limit_range, ..PLAIN },
            ("", "podtemplates") => Self {
                columns: config::TEMPLATE_COLUMNS,
                generation: Generation::Spec,
                returns_deleted: true,
                default: |object| pod::defaults::template(template(object)),
                ..PLAIN
            },
            ("apps", "controllerrevisions") => Self { columns: config::REVISION_COLUMNS, ..PLAIN },
            ("", "endpoints") => Self {
                create_on_update: true,
                default: networking::endpoints,
                columns: networking::ENDPOINTS_COLUMNS,
                ..PLAIN
            },
            ("", "persistentvolumes") => Self {
                default: storage::volume,
                create: storage::new_volume,
                update: storage::changed_volume,
                returns_deleted: true,
                columns: storage::VOLUME_COLUMNS,
                ..PLAIN
            },
            ("", "persistentvolumeclaims") => Self {
                default: storage::claim,
                create: storage::new_claim,
                returns_deleted: true,
                columns: storage::CLAIM_COLUMNS,
                ..PLAIN
            },
            ("", "replicationcontrollers") => Self {
                default: workloads::replication_controller,
                dependents: Dependents::Orphan,
                selectable: &["status.replicas"],
                columns: workloads::REPLICA_COLUMNS,
                ..GENERATION
            },
            ("apps", "deployments") => Self {
                default: workloads::deployment,
                columns: workloads::DEPLOYMENT_COLUMNS,
                generation: Generation::SpecAndAnnotations,
                ..PLAIN
            },
            ("apps", "replicasets") => Self {
                default: workloads::replica_set,
                selectable: &["status.replicas"],
                columns: workloads::REPLICA_COLUMNS,
                ..GENERATION
            },
            ("apps", "statefulsets") => {
                Self { default: workloads::stateful_set, columns: workloads::STATEFUL_COLUMNS, ..GENERATION }
            }
            ("apps", "daemonsets") => {
                Self { default: workloads::daemon_set, columns: workloads::DAEMON_COLUMNS, ..GENERATION }
            }
            ("batch", "jobs") => Self {
                default: batch::job,
                create: batch::new_job,
                selectable: &["status.successful"],
                columns: batch::JOB_COLUMNS,
                dependents: Dependents::Orphan,
                ..GENERATION
            },
            ("batch", "cronjobs") => Self { default: batch::cron_job, columns: batch::CRON_COLUMNS, ..GENERATION },
            ("autoscaling", "horizontalpodautoscalers") => {
                Self { default: autoscaling::autoscaler, columns: autoscaling::COLUMNS, ..PLAIN }
            }
            ("policy", "poddisruptionbudgets") => {
                Self { unconditional_update: false, columns: config::BUDGET_COLUMNS, ..GENERATION }
            }
            ("networking.k8s.io", "ingresses") => Self { columns: networking::INGRESS_COLUMNS, ..GENERATION },
            ("networking.k8s.io", "ingressclasses") => Self { default: networking::ingress_class, ..GENERATION },
            ("networking.k8s.io", "networkpolicies") => {
                Self { default: networking::policy, columns: networking::POLICY_COLUMNS, ..GENERATION }
            }
            ("networking.k8s.io", "servicecidrs") => Self { status_writes_metadata: false, ..PLAIN },
            ("discovery.k8s.io", "endpointslices") => Self {
                default: networking::endpoint_slice,
                columns: networking::SLICE_COLUMNS,
                generation: Generation::SpecAndLabels,
                ..PLAIN
            },
            ("coordination.k8s.io", "leases") => {
                Self { create_on_update: true, unconditional_update: false, columns: config::LEASE_COLUMNS, ..PLAIN }
            }
            ("node.k8s.io", "runtimeclasses") => {
                Self { create_on_update: true, unconditional_update: false, columns: config::RUNTIME_COLUMNS, ..PLAIN }
            }
            ("scheduling.k8s.io", "priorityclasses") => Self {
                default: config::priority_class,
                columns: config::PRIORITY_COLUMNS,
                generation: Generation::Fixed,
                ..PLAIN
            },
            ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
                Self { default: config::binding, columns: config::BINDING_COLUMNS, ..RBAC }
            }
            ("rbac.authorization.k8s.io", _) => RBAC,
            ("storage.k8s.io", "storageclasses") => {
                Self { default: storage::class, returns_deleted: true, columns: storage::CLASS_COLUMNS, ..PLAIN }
            }
            ("storage.k8s.io", "csidrivers") => Self {
                default: storage::driver,
                unconditional_update: false,
                returns_deleted: true,
                columns: storage::DRIVER_COLUMNS,
                generation: Generation::Changes,
                ..PLAIN
            },
            ("storage.k8s.io", "csinodes") => Self { unconditional_update: false, returns_deleted: true, ..PLAIN },
            ("storage.k8s.io", "csistoragecapacities") => Self { unconditional_update: false, ..PLAIN },
            ("storage.k8s.io", "volumeattachments") => Self {
                unconditional_update: false,
                returns_deleted: true,
                status_writes_metadata: false,
                columns: storage::ATTACHMENT_COLUMNS,
                ..PLAIN
            },
            ("storage.k8s.io", "volumeattributesclasses") => Self { returns_deleted: true, ..PLAIN },
            ("resource.k8s.io", "resourceclaims") => Self {
                returns_deleted: true,
                status_writes_metadata: false,
                default: storage::resource_claim,
                columns: storage::DEVICE_CLAIM_COLUMNS,
                ..PLAIN
            },
            ("resource.k8s.io", "resourceclaimtemplates") => Self {
                returns_deleted: true,
                default: |object| storage::resource_claim(object::as_map(object).entry("spec").or_insert(Value::Null)),
                ..PLAIN
            },
            ("resource.k8s.io", "resourceslices") => Self {
                returns_deleted: true,
                selectable: &["spec.driver", "spec.nodeName"],
                columns: storage::SLICE_COLUMNS,
                ..GENERATION
            },
            ("resource.k8s.io", "deviceclasses") => Self { returns_deleted: true, ..GENERATION },
            ("certificates.k8s.io", "certificatesigningrequests") => Self {
                create: config::signing_request,
                selectable: &["spec.signerName"],
                columns: config::SIGNING_COLUMNS,
                reset: &["spec", "status"],
                ..PLAIN
            },
            ("flowcontrol.apiserver.k8s.io", "flowschemas") => {
                Self { default: config::flow_schema, status_writes_metadata: false, ..GENERATION }
            }
            ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => Self {
                default: config::priority_level,
                columns: config::LEVEL_COLUMNS,
                status_writes_metadata: false,
                ..GENERATION
            },
            ("admissionregistration.k8s.io", "validatingwebhookconfigurations" | "mutatingwebhookconfigurations") => {
                Self {
                    default: admissionregistration::webhooks,
                    unconditional_update: false,
                    columns: admissionregistration::WEBHOOK_COLUMNS,
                    ..GENERATION
                }
            }
            ("admissionregistration.k8s.io", plural) => Self {
                default: admissionregistration::policy,
                columns: admissionregistration::POLICY_COLUMNS,
                unconditional_update: false,
                status_writes_metadata: plural != "validatingadmissionpolicies",
                ..GENERATION
            },
            ("apiregistration.k8s.io", _) => Self { unconditional_update: false, ..PLAIN },
            ("apiextensions.k8s.io", _) => Self { unconditional_update: false, ..GENERATION },
            _ => PLAIN,
        }
    }
}

/// `template` of an object.
fn template(object: &mut Value) -> &mut Value {
    object::as_map(object).entry("template").or_insert(Value::Null)
}

/// A kind of the table.
pub(super) struct Simple(pub(super) Facts);

impl Strategy for Simple {
    fn default(&self, object: &mut Value) {
        (self.0.default)(object);
    }

    fn prepare_create(&self, object: &mut Value, write: &mut Write<'_>) {
        (self.0.create)(object, write);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, write: &mut Write<'_>) {
        (self.0.update)(new, old, write);
        if write.part == Part::Status && !self.0.status_writes_metadata {
            for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                object::set_meta(new, field, old.meta(field).clone());
            }
        }
    }

    fn generation(&self) -> Generation {
        self.0.generation
    }

    fn name_rule(&self) -> NameRule {
        self.0.name
    }

    fn status_writes_metadata(&self) -> bool {
        self.0.status_writes_metadata
    }

    fn create_on_update(&self) -> bool {
        self.0.create_on_update
    }

    fn unconditional_update(&self) -> bool {
        self.0.unconditional_update
    }

    fn returns_deleted(&self) -> bool {
        self.0.returns_deleted
    }

    fn dependents(&self) -> Dependents {
        self.0.dependents
    }

    fn reset_on_main(&self) -> &'static [&'static str] {
        self.0.reset
    }

    fn selectable(&self) -> &'static [&'static str] {
        self.0.selectable
    }

    fn selectable_value(&self, object: &Value, field: &str) -> String {
        match (field, object::at(object, field)) {
            ("status.replicas", value) => value.as_i64().unwrap_or(0).to_string(),
            ("status.successful", _) => object::at(object, "status.succeeded").as_i64().unwrap_or(0).to_string(),
            (_, Value::String(text)) => text.clone(),
            (_, Value::Null) => String::new(),
            (_, other) => other.to_string(),
        }
    }

    fn columns(&self) -> Vec<Column> {
        if let Some(columns) = table::headings(self.0.group, self.0.plural) {
            return columns.to_vec();
        }
        if self.0.columns.is_empty() {
            return table::name_and_age();
        }
        let own = self.0.columns.iter().map(|(name, kind, priority, _)| table::column(name, kind, *priority, ""));
        let mut columns = vec![table::name()];
        columns.extend(own);
        let wide = columns.iter().position(|column| column.priority > 0).unwrap_or(columns.len());
        columns.insert(wide, table::age());
        columns
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let cell = |column: &Column| match column.name.as_str() {
            "Name" => object.name().into(),
            "Age" => table::age_cell(object, now),
            "Created At" => object.meta("creationTimestamp").clone(),
            name => {
                let own = self.0.columns.iter().find(|(heading, ..)| *heading == name);
                own.map_or(Value::Null, |(.., cell)| cell(object))
            }
        };
        match table::headings(self.0.group, self.0.plural) {
            Some(columns) => columns.iter().map(cell).collect(),
            None => self.columns().iter().map(cell).collect(),
        }
    }
}
