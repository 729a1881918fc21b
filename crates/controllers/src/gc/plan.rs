//! What to do about one object, once its owners are known. Pure.

use client::Propagation;

use super::graph::Uid;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What an owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// There.
    Solid,
    /// There, and waiting for its dependents to go.
    Waiting,
    /// Not there.
    Absent,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// It has an owner, or never had one.
    Keep,
    /// It has an owner, and names some that are not there or about to go.
    DropReferences(Vec<Uid>),
    /// It goes. With `unblock` it first stops holding up its owners.
    Delete {
        propagation: Propagation,
        unblock: bool,
    },
}

/// `dependents` says of each whether it waits for its own dependents.
pub(super) fn decide(owners: &[(Uid, OwnerState)], dependents: &[bool], finalizers: &[String]) -> Decision {
    if owners.is_empty() {
        return Decision::Keep;
    }
    let is = |state| move |owner: &&(Uid, OwnerState)| owner.1 == state;
    if owners.iter().any(|(_, state)| *state == OwnerState::Solid) {
        let rest = owners.iter().filter(|(_, state)| *state != OwnerState::Solid);
        let rest: Vec<_> = rest.map(|(uid, _)| uid.clone()).collect();
        return if rest.is_empty() { Decision::Keep } else { Decision::DropReferences(rest) };
    }
    if owners.iter().any(|owner| is(OwnerState::Waiting)(&owner)) && !dependents.is_empty() {
        // A circle of objects that wait for each other would never end.
        return Decision::Delete { propagation: Propagation::Foreground, unblock: dependents.contains(&true) };
    }
    let has = |finalizer: &str| finalizers.iter().any(|known| known == finalizer);
    let propagation = if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    Decision::Delete { propagation, unblock: false }
}

#[cfg(test)]
mod tests {
    use super::OwnerState::{Absent, Solid, Waiting};
    use super::*;

    #[test]
    fn one_owner_is_enough_to_stay() {
        let owner = |uid: &str, state| (Uid::from(uid), state);
        let delete = |propagation, unblock| Decision::Delete { propagation, unblock };
        let check = |owners: &[(Uid, OwnerState)], dependents: &[bool], finalizers: &[&str], expected| {
            let finalizers: Vec<_> = finalizers.iter().map(|text| text.to_string()).collect();
            assert_eq!(decide(owners, dependents, &finalizers), expected, "{owners:?}");
        };
        check(&[], &[], &[], Decision::Keep);
        check(&[owner("a", Solid)], &[], &[], Decision::Keep);
        let drop = Decision::DropReferences(vec!["b".into(), "c".into()]);
        check(&[owner("a", Solid), owner("b", Absent), owner("c", Waiting)], &[], &[], drop);
        check(&[owner("a", Absent)], &[], &[], delete(Propagation::Background, false));
        check(&[owner("a", Absent)], &[], &[ORPHAN], delete(Propagation::Orphan, false));
        check(&[owner("a", Waiting)], &[], &[], delete(Propagation::Background, false));
        check(&[owner("a", Waiting)], &[false], &[], delete(Propagation::Foreground, false));
        check(&[owner("a", Waiting)], &[true], &[], delete(Propagation::Foreground, true));
    }
}
