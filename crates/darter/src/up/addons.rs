//! What every cluster is born with beside the API server's own objects: the
//! DNS Service. Applied at each start, so an upgrade brings them up to date.

use super::UpError;
use super::control::Control;

/// Who owns these fields.
const MANAGER: &str = "darter";

/// Applies them.
pub(super) async fn apply(control: &Control) -> Result<(), UpError> {
    let manifest = include_str!("addons.yaml").replace("${DNS_ADDRESS}", &control.service_address(10).to_string());
    cli::apply::manifest(&control.admin(), &manifest, MANAGER).await.map_err(UpError::start("the cluster's own objects"))
}
