//! Who owns whom. Pure: changes go in, work comes out, nobody is asked.
//!
//! An owner that was named but not seen is a virtual node. It is looked up
//! once; if it is not there, its dependents are looked at.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// An object's uid.
pub(super) type Uid = Arc<str>;

/// Which object, apart from its uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// Empty for the core group.
    pub(super) group: Arc<str>,
    pub(super) kind: Arc<str>,
    /// Empty for cluster-scoped objects.
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// An owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Uid,
    pub(super) group: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
    /// The owner must not go in the foreground before this dependent.
    pub(super) blocks: bool,
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) uid: Uid,
    pub(super) identity: Identity,
    pub(super) owners: Vec<Owner>,
    /// It has a deletion timestamp.
    pub(super) is_deleting: bool,
    /// It waits for its dependents to be gone.
    pub(super) is_foreground: bool,
    /// It waits for its dependents to be cut loose.
    pub(super) is_orphaning: bool,
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    /// Should this object be deleted, or may it go?
    Attempt(Uid),
    /// Cut its dependents loose and let it go.
    Orphan(Uid),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Attempt(uid) => write!(f, "attempt {uid}"),
            Work::Orphan(uid) => write!(f, "orphan {uid}"),
        }
    }
}

struct Node {
    identity: Identity,
    owners: Vec<Owner>,
    dependents: HashSet<Uid>,
    is_deleting: bool,
    is_foreground: bool,
    is_orphaning: bool,
    /// Only named by others.
    is_virtual: bool,
}

/// A node as it is now, for deciding about it.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) identity: Identity,
    pub(super) has_owners: bool,
    pub(super) is_deleting: bool,
    pub(super) is_waiting_for_dependents: bool,
    pub(super) is_virtual: bool,
    pub(super) dependents: Vec<Dependent>,
}

/// A dependent in a [`Snapshot`].
#[derive(Clone, Debug)]
pub(super) struct Dependent {
    pub(super) uid: Uid,
    pub(super) identity: Identity,
    pub(super) blocks: bool,
    pub(super) is_waiting_for_dependents: bool,
}

/// See the module. Bounded by the objects that exist and those they name.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
}

impl Graph {
    /// An object is there, new or changed.
    pub(super) fn apply(&mut self, seen: Seen, work: &mut Vec<Work>) {
        let Seen { uid, identity, owners, is_deleting, is_foreground, is_orphaning } = seen;
        if self.nodes.get(&uid).is_some_and(|node| node.is_virtual && node.identity != identity) {
            // Those who named it otherwise may have named nobody.
            work.extend(self.mismatched(&uid, &identity).into_iter().map(Work::Attempt));
        }
        let node = self.nodes.entry(uid.clone()).or_insert_with(|| Node::new(identity.clone()));
        node.identity = identity;
        node.is_virtual = false;
        let before = std::mem::replace(&mut node.owners, owners.clone());
        let starts_orphaning = is_deleting && is_orphaning && !(node.is_deleting && node.is_orphaning);
        let starts_waiting = is_deleting && is_foreground && !(node.is_deleting && node.is_foreground);
        node.is_deleting |= is_deleting;
        node.is_foreground = is_foreground;
        node.is_orphaning = is_orphaning;
        self.change_owners(&uid, &before, &owners, work);
        if starts_orphaning {
            work.push(Work::Orphan(uid));
        } else if starts_waiting {
            let dependents = self.nodes.get(&uid).map(|node| node.dependents.clone()).unwrap_or_default();
            work.extend(dependents.into_iter().map(Work::Attempt));
            work.push(Work::Attempt(uid));
        }
    }

    fn change_owners(&mut self, uid: &Uid, before: &[Owner], after: &[Owner], work: &mut Vec<Work>) {
        for old in before {
            let new = after.iter().find(|new| new.uid == old.uid);
            if old.blocks && !new.is_some_and(|new| new.blocks) && self.nodes.contains_key(&old.uid) {
                work.push(Work::Attempt(old.uid.clone()));
            }
            if new.is_none() {
                self.unlink(&old.uid, uid);
            }
        }
        let mut is_doubtful = false;
        for new in after.iter().filter(|new| !before.iter().any(|old| old.uid == new.uid)) {
            is_doubtful |= self.link(new, uid, work);
        }
        if is_doubtful {
            work.push(Work::Attempt(uid.clone()));
        }
    }

    /// True if the owner is not what the dependent says.
    fn link(&mut self, owner: &Owner, dependent: &Uid, work: &mut Vec<Work>) -> bool {
        let Some(namespace) = self.nodes.get(dependent).map(|node| node.identity.namespace.clone()) else { return false };
        let node = match self.nodes.get_mut(&owner.uid) {
            Some(node) => node,
            None => {
                work.push(Work::Attempt(owner.uid.clone()));
                let identity = named(owner, &namespace);
                self.nodes.entry(owner.uid.clone()).or_insert_with(|| Node { is_virtual: true, ..Node::new(identity) })
            }
        };
        node.dependents.insert(dependent.clone());
        !is_match(owner, &namespace, node)
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(node) = self.nodes.get_mut(owner) {
            node.dependents.remove(dependent);
            if node.is_virtual && node.dependents.is_empty() {
                self.nodes.remove(owner);
            }
        }
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, uid: &Uid, work: &mut Vec<Work>) {
        let Some(node) = self.nodes.remove(uid) else { return };
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            if self.nodes.get(&owner.uid).is_some_and(Node::is_waiting) {
                work.push(Work::Attempt(owner.uid.clone()));
            }
        }
        if !node.dependents.is_empty() {
            work.extend(node.dependents.iter().cloned().map(Work::Attempt));
            // They still name it.
            let gone = Node { is_virtual: true, dependents: node.dependents, ..Node::new(node.identity) };
            self.nodes.insert(uid.clone(), gone);
        }
    }

    /// The server has no object of this uid under this identity. The node's
    /// dependents are to be looked at; it stays as what they name.
    pub(super) fn absent(&mut self, uid: &Uid, identity: &Identity, work: &mut Vec<Work>) {
        let Some(node) = self.nodes.get(uid) else { return };
        if !node.is_virtual && node.identity == *identity {
            return self.remove(uid, work);
        }
        let dependents = node.dependents.clone();
        let namespace_of = |dependent: &Uid| self.nodes.get(dependent).map(|node| node.identity.namespace.clone());
        let names = |dependent: &Uid| {
            let owners = self.nodes.get(dependent).map(|node| node.owners.as_slice()).unwrap_or_default();
            owners.iter().find(|owner| owner.uid == *uid).cloned()
        };
        let (mut alternative, mut matching) = (None, Vec::new());
        for dependent in dependents {
            let Some((owner, namespace)) = names(&dependent).zip(namespace_of(&dependent)) else { continue };
            let its = named(&owner, &namespace);
            let is_cluster_wide = identity.namespace.is_empty();
            if its == *identity || (is_cluster_wide && Identity { namespace: identity.namespace.clone(), ..its.clone() } == *identity) {
                matching.push(dependent);
            } else {
                alternative.get_or_insert(its);
            }
        }
        work.extend(matching.into_iter().map(Work::Attempt));
        // Another dependent names it otherwise: look there too.
        if let Some(alternative) = alternative
            && let Some(node) = self.nodes.get_mut(uid)
            && node.is_virtual
            && node.identity == *identity
        {
            node.identity = alternative;
            work.push(Work::Attempt(uid.clone()));
        }
    }

    /// Of this group and kind only these objects are there.
    pub(super) fn retain(&mut self, group: &str, kind: &str, uids: &HashSet<Uid>, work: &mut Vec<Work>) {
        let is_gone = |uid: &Uid, node: &Node| {
            !node.is_virtual && &*node.identity.kind == kind && &*node.identity.group == group && !uids.contains(uid)
        };
        let gone: Vec<Uid> =
            self.nodes.iter().filter(|(uid, node)| is_gone(uid, node)).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.remove(&uid, work);
        }
    }

    /// The node, if there is one.
    pub(super) fn snapshot(&self, uid: &Uid) -> Option<Snapshot> {
        let node = self.nodes.get(uid)?;
        let dependents = node.dependents.iter().filter_map(|dependent| {
            let its = self.nodes.get(dependent)?;
            Some(Dependent {
                uid: dependent.clone(),
                identity: its.identity.clone(),
                blocks: its.owners.iter().any(|owner| owner.uid == *uid && owner.blocks),
                is_waiting_for_dependents: its.is_waiting(),
            })
        });
        Some(Snapshot {
            identity: node.identity.clone(),
            has_owners: !node.owners.is_empty(),
            is_deleting: node.is_deleting,
            is_waiting_for_dependents: node.is_waiting(),
            is_virtual: node.is_virtual,
            dependents: dependents.collect(),
        })
    }

    /// Whether the named owner was seen as it is named; and if so, whether it
    /// waits for its dependents.
    pub(super) fn owner(&self, owner: &Owner, namespace: &str) -> Option<bool> {
        let node = self.nodes.get(&owner.uid).filter(|node| !node.is_virtual)?;
        is_match(owner, namespace, node).then(|| node.is_waiting())
    }

    /// Dependents that name the node otherwise than `identity` says.
    fn mismatched(&self, uid: &Uid, identity: &Identity) -> Vec<Uid> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let is_right = |dependent: &Uid| {
            let Some(its) = self.nodes.get(dependent) else { return true };
            let mut owners = its.owners.iter().filter(|owner| owner.uid == *uid);
            owners.all(|owner| is_named(owner, &its.identity.namespace, identity))
        };
        node.dependents.iter().filter(|dependent| !is_right(dependent)).cloned().collect()
    }
}

impl Node {
    fn new(identity: Identity) -> Self {
        Self {
            identity,
            owners: Vec::new(),
            dependents: HashSet::new(),
            is_deleting: false,
            is_foreground: false,
            is_orphaning: false,
            is_virtual: false,
        }
    }

    fn is_waiting(&self) -> bool {
        self.is_deleting && self.is_foreground
    }
}

/// The identity that a reference gives to its owner, from within a namespace.
fn named(owner: &Owner, namespace: &Arc<str>) -> Identity {
    Identity {
        group: owner.group.clone(),
        kind: owner.kind.clone(),
        namespace: namespace.clone(),
        name: owner.name.clone(),
    }
}

fn is_named(owner: &Owner, namespace: &str, identity: &Identity) -> bool {
    owner.group == identity.group
        && owner.kind == identity.kind
        && owner.name == identity.name
        && (identity.namespace.is_empty() || &*identity.namespace == namespace)
}

fn is_match(owner: &Owner, namespace: &str, node: &Node) -> bool {
    is_named(owner, namespace, &node.identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(uid: &str, owners: &[&str]) -> Seen {
        let owner = |uid: &&str| Owner {
            uid: (*uid).into(),
            group: "".into(),
            kind: "ConfigMap".into(),
            name: (*uid).into(),
            blocks: true,
        };
        Seen {
            uid: uid.into(),
            identity: Identity { group: "".into(), kind: "ConfigMap".into(), namespace: "n".into(), name: uid.into() },
            owners: owners.iter().map(owner).collect(),
            is_deleting: false,
            is_foreground: false,
            is_orphaning: false,
        }
    }

    fn apply(graph: &mut Graph, seen: Seen) -> Vec<String> {
        let mut work = Vec::new();
        graph.apply(seen, &mut work);
        texts(work)
    }

    fn texts(work: Vec<Work>) -> Vec<String> {
        let mut texts: Vec<_> = work.iter().map(Work::to_string).collect();
        texts.sort();
        texts
    }

    #[test]
    fn an_owner_that_is_not_seen_is_looked_up_once() {
        let mut graph = Graph::default();
        assert_eq!(apply(&mut graph, seen("a", &["o"])), ["attempt o"]);
        assert_eq!(apply(&mut graph, seen("b", &["o"])), [""; 0]);
        assert_eq!(apply(&mut graph, seen("o", &[])), [""; 0], "as it was named");
        let mut work = Vec::new();
        graph.remove(&"o".into(), &mut work);
        assert_eq!(texts(work), ["attempt a", "attempt b"]);
    }

    #[test]
    fn foreground_looks_at_dependents_and_the_last_one_frees_the_owner() {
        let mut graph = Graph::default();
        apply(&mut graph, seen("o", &[]));
        apply(&mut graph, seen("a", &["o"]));
        let deleting = Seen { is_deleting: true, is_foreground: true, ..seen("o", &[]) };
        assert_eq!(apply(&mut graph, deleting.clone()), ["attempt a", "attempt o"]);
        assert_eq!(apply(&mut graph, deleting), [""; 0], "only when it begins");
        let snapshot = graph.snapshot(&"o".into()).unwrap();
        assert!(snapshot.is_waiting_for_dependents && snapshot.dependents[0].blocks);
        let mut work = Vec::new();
        graph.remove(&"a".into(), &mut work);
        assert_eq!(texts(work), ["attempt o"]);
    }

    #[test]
    fn orphaning_begins_once() {
        let mut graph = Graph::default();
        apply(&mut graph, seen("o", &[]));
        let deleting = Seen { is_deleting: true, is_orphaning: true, ..seen("o", &[]) };
        assert_eq!(apply(&mut graph, deleting.clone()), ["orphan o"]);
        assert_eq!(apply(&mut graph, deleting), [""; 0]);
    }

    #[test]
    fn a_reference_with_a_wrong_name_is_doubtful() {
        let mut graph = Graph::default();
        apply(&mut graph, seen("o", &[]));
        let mut wrong = seen("a", &["o"]);
        wrong.owners[0].name = "other".into();
        assert_eq!(apply(&mut graph, wrong), ["attempt a"]);
    }

    #[test]
    fn what_is_not_listed_again_is_gone() {
        let mut graph = Graph::default();
        apply(&mut graph, seen("o", &[]));
        apply(&mut graph, seen("a", &["o"]));
        let mut work = Vec::new();
        graph.retain("", "ConfigMap", &HashSet::from(["a".into()]), &mut work);
        assert_eq!(texts(work), ["attempt a"]);
    }

    #[test]
    fn an_absent_owner_brings_its_dependents() {
        let mut graph = Graph::default();
        apply(&mut graph, seen("a", &["o"]));
        let identity = graph.snapshot(&"o".into()).unwrap().identity;
        let mut work = Vec::new();
        graph.absent(&"o".into(), &identity, &mut work);
        assert_eq!(texts(work), ["attempt a"]);
    }
}
