//! Roles and bindings by what is asked of them: which rules does this user have
//! in this namespace, and through which binding. Kept up to date one object at
//! a time; decides nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::selector::{LabelSelector, Labels};
use serde::Deserialize;
use serde_json::Value;

use super::rules::PolicyRule;
use crate::access::UserInfo;
use crate::field::Quoted;

/// The one API group that subjects and references belong to.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// Whom a binding speaks of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Subject {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
}

/// What a user or group is looked up by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Who {
    User(Box<str>),
    Group(Box<str>),
}

impl Subject {
    fn who(&self, binding_namespace: &str) -> Option<Who> {
        match self.kind.as_str() {
            "User" => Some(Who::User(self.name.as_str().into())),
            "Group" => Some(Who::Group(self.name.as_str().into())),
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() { binding_namespace } else { &self.namespace };
                let name = format!("system:serviceaccount:{namespace}:{}", self.name);
                (!namespace.is_empty()).then(|| Who::User(name.into()))
            }
            _ => None,
        }
    }

    fn applies(&self, user: &UserInfo, binding_namespace: &str) -> bool {
        match self.who(binding_namespace) {
            Some(Who::User(name)) => *name == *user.name,
            Some(Who::Group(name)) => user.in_group(&name),
            None => false,
        }
    }

    fn describe(&self, binding_namespace: &str) -> String {
        if self.kind == "ServiceAccount" {
            let namespace = if self.namespace.is_empty() { binding_namespace } else { &self.namespace };
            return format!("ServiceAccount {}", Quoted(&format!("{}/{namespace}", self.name)));
        }
        format!("{} {}", self.kind, Quoted(&self.name))
    }
}

/// Which role a binding grants.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RoleRef {
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// A binding of either kind.
#[derive(Debug)]
pub(crate) struct Binding {
    /// Empty for cluster role bindings.
    namespace: String,
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

impl Binding {
    /// The binding as the reason of a decision names it.
    pub(crate) fn describe(&self, user: &UserInfo) -> String {
        let subject = self.subjects.iter().find(|subject| subject.applies(user, &self.namespace));
        let subject = subject.map(|subject| subject.describe(&self.namespace)).unwrap_or_default();
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.name.clone())
        } else {
            ("RoleBinding", format!("{}/{}", self.name, self.namespace))
        };
        format!("{kind} {} of {} {} to {subject}", Quoted(&name), self.role.kind, Quoted(&self.role.name))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RoleObject {
    metadata: Metadata,
    rules: Option<Vec<PolicyRule>>,
    aggregation_rule: Option<AggregationRule>,
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: String,
    name: String,
    labels: Option<Labels>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AggregationRule {
    cluster_role_selectors: Option<Vec<Value>>,
}

#[derive(Debug)]
struct ClusterRole {
    rules: Arc<[PolicyRule]>,
    labels: Labels,
    gathers: Vec<LabelSelector>,
}

/// Which of the four kinds an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

/// Namespace (empty for cluster scope) and name.
type Key = (String, String);

/// See the module.
#[derive(Default)]
pub(crate) struct Index {
    roles: HashMap<Key, Arc<[PolicyRule]>>,
    cluster_roles: BTreeMap<String, ClusterRole>,
    /// Cluster roles that gather others, with the rules gathered.
    gathered: HashMap<String, Arc<[PolicyRule]>>,
    bindings: HashMap<Key, Arc<Binding>>,
    by_who: HashMap<(String, Who), BTreeMap<String, Arc<Binding>>>,
}

impl Index {
    /// Forgets all objects of a kind.
    pub(crate) fn reset(&mut self, kind: Kind) {
        match kind {
            Kind::Role => self.roles.clear(),
            Kind::ClusterRole => {
                self.cluster_roles.clear();
                self.gathered.clear();
            }
            Kind::RoleBinding | Kind::ClusterRoleBinding => {
                let cluster = kind == Kind::ClusterRoleBinding;
                self.bindings.retain(|(namespace, _), _| namespace.is_empty() != cluster);
                self.by_who.retain(|(namespace, _), _| namespace.is_empty() != cluster);
            }
        }
    }

    /// Takes in an object. One that cannot be read grants nothing.
    pub(crate) fn put(&mut self, kind: Kind, value: &[u8]) {
        let object: RoleObject = match serde_json::from_slice(value) {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(?kind, err = &error as &dyn std::error::Error, "a stored object cannot be read");
                return;
            }
        };
        let key = (object.metadata.namespace, object.metadata.name);
        let rules: Arc<[PolicyRule]> = object.rules.unwrap_or_default().into();
        match kind {
            Kind::Role => {
                self.roles.insert(key, rules);
            }
            Kind::ClusterRole => {
                let selectors =
                    object.aggregation_rule.and_then(|rule| rule.cluster_role_selectors).unwrap_or_default();
                // A selector that cannot be read gathers nothing.
                let gathers =
                    selectors.iter().filter_map(|selector| LabelSelector::from_value(selector).ok()).collect();
                let labels = object.metadata.labels.unwrap_or_default();
                self.cluster_roles.insert(key.1, ClusterRole { rules, labels, gathers });
                self.gather();
            }
            Kind::RoleBinding | Kind::ClusterRoleBinding => {
                self.unbind(&key);
                let subjects = object.subjects.unwrap_or_default();
                let (namespace, name) = key.clone();
                let binding = Arc::new(Binding { namespace, name, role: object.role_ref, subjects });
                for who in binding.subjects.iter().filter_map(|subject| subject.who(&key.0)) {
                    let bindings = self.by_who.entry((key.0.clone(), who)).or_default();
                    bindings.insert(key.1.clone(), Arc::clone(&binding));
                }
                self.bindings.insert(key, binding);
            }
        }
    }

    /// Drops an object.
    pub(crate) fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        match kind {
            Kind::Role => {
                self.roles.remove(&key);
            }
            Kind::ClusterRole => {
                self.cluster_roles.remove(name);
                self.gather();
            }
            Kind::RoleBinding | Kind::ClusterRoleBinding => self.unbind(&key),
        }
    }

    fn unbind(&mut self, key: &Key) {
        let Some(binding) = self.bindings.remove(key) else { return };
        for who in binding.subjects.iter().filter_map(|subject| subject.who(&key.0)) {
            let place = (key.0.clone(), who);
            if let Some(bindings) = self.by_who.get_mut(&place) {
                bindings.remove(&key.1);
                if bindings.is_empty() {
                    self.by_who.remove(&place);
                }
            }
        }
    }

    /// What the aggregation controller writes into the gathering roles sooner
    /// or later: here it holds at once.
    fn gather(&mut self) {
        let gathering = self.cluster_roles.iter().filter(|(_, role)| !role.gathers.is_empty());
        self.gathered = gathering.map(|(name, role)| (name.clone(), self.gathered_by(name, &role.gathers))).collect();
    }

    fn gathered_by(&self, name: &str, selectors: &[LabelSelector]) -> Arc<[PolicyRule]> {
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in selectors {
            for (other, role) in &self.cluster_roles {
                if other == name || !selector.matches(&role.labels) {
                    continue;
                }
                // Gathering roles may be gathered: edit into admin, view into edit.
                let nested = if role.gathers.is_empty() { &role.rules } else { &self.flat(other, &mut vec![name]) };
                rules.extend(nested.iter().filter(|rule| !rules.contains(rule)).cloned().collect::<Vec<_>>());
            }
        }
        rules.into()
    }

    /// The rules of a gathering role, gathered through others; `above` are the
    /// roles on the way here, so that a circle ends.
    fn flat<'a>(&'a self, name: &'a str, above: &mut Vec<&'a str>) -> Arc<[PolicyRule]> {
        let Some(role) = self.cluster_roles.get(name) else { return Arc::from([]) };
        if role.gathers.is_empty() {
            return Arc::clone(&role.rules);
        }
        above.push(name);
        let mut rules: Vec<PolicyRule> = Vec::new();
        for (other, part) in &self.cluster_roles {
            if !above.contains(&other.as_str()) && role.gathers.iter().any(|selector| selector.matches(&part.labels)) {
                let nested = self.flat(other, above);
                rules.extend(nested.iter().filter(|rule| !rules.contains(rule)).cloned().collect::<Vec<_>>());
            }
        }
        above.pop();
        rules.into()
    }

    /// The rules of a role as a binding in `namespace` names it.
    pub(crate) fn rules_of(&self, role: &RoleRef, namespace: &str) -> Result<Arc<[PolicyRule]>, String> {
        match role.kind.as_str() {
            "Role" => {
                let key = (namespace.to_owned(), role.name.clone());
                let rules = self.roles.get(&key).cloned();
                rules.ok_or_else(|| format!("role.{GROUP} {} not found", Quoted(&role.name)))
            }
            "ClusterRole" => {
                let gathered = self.gathered.get(&role.name);
                let rules = gathered.or_else(|| self.cluster_roles.get(&role.name).map(|role| &role.rules));
                rules.cloned().ok_or_else(|| format!("clusterrole.{GROUP} {} not found", Quoted(&role.name)))
            }
            other => Err(format!("unsupported role reference kind: {}", Quoted(other))),
        }
    }

    /// The bindings that speak of the user: those of the cluster, then those
    /// of the namespace.
    pub(crate) fn bindings_of(&self, user: &UserInfo, namespace: &str) -> impl Iterator<Item = &Arc<Binding>> {
        let groups = user.groups.iter().map(|group| Who::Group(group.as_str().into()));
        let whos: Vec<Who> = std::iter::once(Who::User(user.name.as_str().into())).chain(groups).collect();
        let scopes: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        let places: Vec<(String, Who)> =
            scopes.iter().flat_map(|scope| whos.iter().map(|who| ((*scope).to_owned(), who.clone()))).collect();
        places.into_iter().filter_map(|place| self.by_who.get(&place)).flat_map(BTreeMap::values)
    }

    /// The rules that a binding of [`Index::bindings_of`] grants.
    pub(crate) fn granted(&self, binding: &Binding) -> Result<Arc<[PolicyRule]>, String> {
        self.rules_of(&binding.role, &binding.namespace)
    }
}
