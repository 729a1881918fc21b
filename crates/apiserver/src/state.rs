//! What all requests share: the store, the catalogue, the gates and the
//! settings. Holds no cache of objects: the store is the memory.

use std::sync::Arc;

use api::status::Status;
use store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admission;
use crate::authn::Authenticators;
use crate::authz::Policy;
use crate::hooks::Hooks;
use crate::metrics::Metrics;
use crate::resource::{Catalog, Collection};
use crate::tokens::{SigningKey, Tokens};

/// Reading requests at a time (`--max-requests-inflight`, upstream's default).
const READS_IN_FLIGHT: usize = 400;
/// Writing requests at a time (`--max-mutating-requests-inflight`).
const WRITES_IN_FLIGHT: usize = 200;

/// The server's shared state.
pub(crate) struct Core {
    /// Where objects live.
    pub(crate) store: Arc<dyn Store>,
    /// What is served.
    pub(crate) catalog: Catalog,
    /// Who asks.
    pub(crate) authenticator: Authenticators,
    /// Whether they may.
    pub(crate) authorizer: Policy,
    /// Who may still object.
    pub(crate) admission: admission::Chain,
    /// What happens beside writes.
    pub(crate) hooks: Hooks,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// Bound of reads at a time.
    pub(crate) reads: Semaphore,
    /// Bound of writes at a time.
    pub(crate) writes: Semaphore,
    /// What nodes and pods had used when somebody asked last.
    pub(crate) readings: crate::resource_metrics::Readings,
    /// OpenAPI documents made lately.
    pub(crate) documents: crate::openapi::Documents,
    /// Ends watches and streams.
    pub(crate) shutdown: CancellationToken,
    /// Parsed settings.
    pub(crate) settings: crate::config::Settings,
}

impl Core {
    /// Puts the parts together.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        admin_token: Option<String>,
        key: SigningKey,
        settings: crate::config::Settings,
    ) -> Self {
        let measured = if settings.resource_metrics { crate::resource_metrics::kinds() } else { Vec::new() };
        let catalog = Catalog::new(crate::builtin::resources(), measured);
        let tokens = Tokens::new(key, settings.issuer.clone());
        let authenticator = Authenticators::new(Arc::clone(&store), &catalog, admin_token, tokens);
        let authorizer = Policy::new(Arc::clone(&store), &catalog);
        Self {
            store,
            catalog,
            authenticator,
            authorizer,
            admission: admission::Chain::new(),
            hooks: Hooks::new(&settings),
            metrics: Metrics::new(),
            reads: Semaphore::new(READS_IN_FLIGHT),
            writes: Semaphore::new(WRITES_IN_FLIGHT),
            readings: crate::resource_metrics::Readings::default(),
            documents: crate::openapi::Documents::default(),
            shutdown: CancellationToken::new(),
            settings,
        }
    }

    /// A built-in collection. An error of ours if it does not exist.
    pub(crate) fn collection(&self, group: &str, plural: &str) -> Result<Arc<Collection>, Status> {
        let resource = self.catalog.by_resource(group, plural);
        resource
            .map(|resource| Arc::clone(&resource.collection))
            .ok_or_else(|| Status::internal(format!("no collection {plural}.{group}")))
    }
}
