//! Authorization: the groups that may do all, nodes by what their pods need,
//! everyone else by roles and bindings. Answers from memory; knows no request.

mod bootstrap;
pub(crate) mod escalation;
mod feed;
mod index;
mod node;
pub(crate) mod reviews;
pub(crate) mod rules;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use store::Store;

pub(crate) use bootstrap::run as bootstrap;

use crate::access::{Attributes, UserInfo};
use crate::resource::Catalog;
use feed::{Change, Feed};
pub(crate) use index::RoleRef;
use index::{Index, Kind};
use node::NodeGraph;
pub(crate) use node::{name_of as node_name, reference_in};
use rules::PolicyRule;

/// Members of this group may do everything; nothing can take that away.
const MASTERS: &str = "system:masters";

/// The rules of a user in a namespace, as far as they can be told.
pub(crate) struct OwnRules {
    /// Each with the resources or URLs it is about.
    pub(crate) rules: Vec<PolicyRule>,
    /// True if there may be more.
    pub(crate) incomplete: bool,
    /// Why some could not be found.
    pub(crate) errors: Vec<String>,
}

/// A decision with its reason, as access reviews show it.
pub(crate) struct Verdict {
    /// Yes or no.
    pub(crate) allowed: bool,
    /// Why; may be empty.
    pub(crate) reason: String,
}

/// See the module.
pub(crate) struct Policy {
    store: Arc<dyn Store>,
    feeds: Mutex<[(Kind, Feed); 4]>,
    index: RwLock<Index>,
    nodes: NodeGraph,
}

impl Policy {
    /// A policy that follows the objects of the store.
    pub(crate) fn new(store: Arc<dyn Store>, catalog: &Catalog) -> Self {
        let feed = |kind, plural| (kind, Feed::new(&prefix(catalog, index::GROUP, plural)));
        let feeds = [
            feed(Kind::ClusterRole, "clusterroles"),
            feed(Kind::Role, "roles"),
            feed(Kind::ClusterRoleBinding, "clusterrolebindings"),
            feed(Kind::RoleBinding, "rolebindings"),
        ];
        let nodes = NodeGraph::new(Arc::clone(&store), catalog);
        Self { store, feeds: Mutex::new(feeds), index: RwLock::default(), nodes }
    }

    /// The decision and its reason.
    pub(crate) fn verdict(&self, asked: &Attributes<'_>) -> Verdict {
        if asked.user.in_group(MASTERS) {
            return Verdict { allowed: true, reason: String::new() };
        }
        let node = self.nodes.verdict(asked);
        if node.allowed {
            return node;
        }
        let mut rbac = self.by_roles(asked);
        if !rbac.allowed && !node.reason.is_empty() {
            let joined = if rbac.reason.is_empty() { node.reason } else { format!("{}\n{}", node.reason, rbac.reason) };
            rbac.reason = joined;
        }
        rbac
    }

    fn by_roles(&self, asked: &Attributes<'_>) -> Verdict {
        self.advance();
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut errors = Vec::new();
        for binding in index.bindings_of(asked.user, asked.namespace) {
            match index.granted(binding) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(asked)) => {
                    let reason = format!("RBAC: allowed by {}", binding.describe(asked.user));
                    return Verdict { allowed: true, reason };
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        let reason = if errors.is_empty() { String::new() } else { format!("RBAC: {}", aggregate(&errors)) };
        Verdict { allowed: false, reason }
    }

    /// What the user may do in a namespace.
    pub(crate) fn rules_for(&self, user: &UserInfo, namespace: &str) -> OwnRules {
        let mut own = OwnRules { rules: Vec::new(), incomplete: false, errors: Vec::new() };
        if user.in_group(MASTERS) {
            let urls = vec!["*".to_owned()];
            own.rules.push(PolicyRule::on("*", &["*"], &["*"]));
            own.rules.push(PolicyRule { verbs: urls.clone(), non_resource_urls: urls, ..PolicyRule::default() });
        }
        if node::name_of(user).is_some() {
            own.incomplete = true;
            own.errors.push("node authorizer does not support user rule resolution".to_owned());
        }
        let (rules, errors) = self.granted_rules(user, namespace);
        own.rules.extend(rules);
        own.errors.extend(errors);
        own
    }

    /// The rules that bindings grant the user in a namespace.
    pub(crate) fn granted_rules(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        self.advance();
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for binding in index.bindings_of(user, namespace) {
            match index.granted(binding) {
                Ok(granted) => rules.extend(granted.iter().cloned()),
                Err(error) => errors.push(error),
            }
        }
        (rules, errors)
    }

    /// The rules of a role as a binding in `namespace` names it; `None` if it
    /// does not exist.
    pub(crate) fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<Arc<[PolicyRule]>> {
        self.advance();
        self.index.read().unwrap_or_else(PoisonError::into_inner).rules_of(role, namespace).ok()
    }

    /// Brings the index up to what the store holds now.
    fn advance(&self) {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, feed) in feeds.iter_mut() {
            let mut index = None;
            let known = feed.advance(&self.store, |change| {
                let index = index.get_or_insert_with(|| self.index.write().unwrap_or_else(PoisonError::into_inner));
                match change {
                    Change::Reset => index.reset(*kind),
                    Change::Put(entry) => index.put(*kind, &entry.value),
                    Change::Gone(entry) => {
                        let (namespace, name) = object_of(&entry.key, *kind);
                        index.remove(*kind, namespace, name);
                    }
                }
            });
            if !known {
                tracing::warn!(?kind, "the store did not answer: deciding by what is known");
            }
        }
    }
}

/// Namespace and name at the end of a key.
fn object_of(key: &str, kind: Kind) -> (&str, &str) {
    let (before, name) = key.rsplit_once('/').unwrap_or(("", key));
    match kind {
        Kind::ClusterRole | Kind::ClusterRoleBinding => ("", name),
        Kind::Role | Kind::RoleBinding => (before.rsplit_once('/').map_or("", |(_, namespace)| namespace), name),
    }
}

/// The key prefix of a built-in collection.
///
/// # Panics
/// If the table of kinds has no such collection.
pub(crate) fn prefix(catalog: &Catalog, group: &str, plural: &str) -> String {
    let resource = catalog.by_resource(group, plural).expect("a built-in kind is in the generated table");
    resource.collection.prefix.clone()
}

/// Several errors as one text.
fn aggregate(errors: &[String]) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for error in errors {
        if !distinct.contains(&error.as_str()) {
            distinct.push(error);
        }
    }
    match distinct.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests;
