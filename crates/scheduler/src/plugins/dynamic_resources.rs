//! DynamicResources: devices by resource claims. Pods without claims pass it;
//! allocation itself is not here yet.

use crate::event::Event;
use crate::plugin::{Plugin, Rejection, Restriction, View, Waiting};
use crate::pod::ClassFacts;

/// Part of the message of a pod that no node fits, as upstream has it for
/// every pod without claims.
pub(crate) const NOTHING_TO_DEALLOCATE: &str = "no new claims to deallocate";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    // TODO-correctness: refuses every pod with claims until structured
    // parameters are allocated here.
    fn restrict(&self, _view: View<'_>, class: &ClassFacts) -> Restriction {
        if class.resource_claims {
            return Restriction::Reject(Rejection::unresolvable("resource claims are not supported"));
        }
        Restriction::All
    }

    fn hint(&self, _view: View<'_>, _pod: &Waiting<'_>, _event: &Event) -> bool {
        false
    }
}
