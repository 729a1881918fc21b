//! The URL grammar: what a path and method mean (upstream's
//! `endpoints/request/requestinfo.go`, 1.36). Knows no table of kinds: whether
//! a resource exists is decided later.

use http::Method;

/// A request, read from its path, query and method.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RequestInfo {
    /// False for `/version`, `/healthz`, discovery and the like.
    pub is_resource: bool,
    /// The path as it came, for requests that are about no resource.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`; the lower-case method for the rest.
    pub verb: String,
    /// `api` or `apis`.
    pub prefix: String,
    /// Empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// Empty for cluster-scoped requests and for all namespaces.
    pub namespace: String,
    /// Plural; empty for discovery.
    pub resource: String,
    /// `status`; empty for the object itself.
    pub subresource: String,
    /// Empty for collections.
    pub name: String,
    /// The one name that a collection request selects, if any.
    pub selected: String,
    /// All parts from the resource on.
    pub parts: Vec<String>,
    /// The URL came in the old `/watch/` form.
    pub legacy_watch: bool,
}

/// Subresources of a namespace, which look like resources in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads a request. `query` is the raw query string.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self { path: path.to_owned(), verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        // Decoded before it is split, as upstream does: an escaped slash separates.
        let decoded = percent_decode(path);
        let mut parts: Vec<String> = decoded.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if parts.len() < 3 || (parts[0] != "api" && parts[0] != "apis") {
            return info;
        }
        info.prefix = parts.remove(0);
        if info.prefix == "apis" {
            if parts.len() < 3 {
                return info;
            }
            info.group = parts.remove(0);
        }
        info.is_resource = true;
        info.version = parts.remove(0);
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        if parts.len() > 1 && (parts[0] == "watch" || parts[0] == "proxy") {
            let special = parts.remove(0);
            info.legacy_watch = special == "watch";
            info.verb = special;
        }
        if parts[0] == "namespaces" {
            if parts.len() > 1 {
                info.namespace = parts[1].clone();
                if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2].as_str()) {
                    parts.drain(..2);
                }
            }
        }
        info.resource = parts[0].clone();
        if let Some(name) = parts.get(1) {
            info.name = name.clone();
        }
        if let Some(subresource) = parts.get(2) {
            info.subresource = subresource.clone();
        }
        info.parts = parts;
        if info.name.is_empty() && info.verb == "get" {
            info.verb = if query.truthy("watch") { "watch" } else { "list" }.to_owned();
        }
        if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection".to_owned();
        }
        info
    }

    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// A decoded query string: pairs in order, keys may repeat.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=b&c`. Pairs with broken percent escapes are kept as they are.
    pub fn parse(raw: Option<&str>) -> Self {
        let pairs = raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(&key.replace('+', " ")), percent_decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Upstream's conversion of query values to booleans: a key that is there
    /// is true unless it says `false` or `0`.
    pub fn truthy(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }
}

/// Decodes `%XX`; a broken escape stays as it is.
pub fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, uri: &str, expected: &str) {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        let info = RequestInfo::parse(&method, path, &Query::parse(query));
        let got = if info.is_resource {
            format!(
                "{} {}|{}|{}|{}|{}|{}",
                info.verb, info.group, info.version, info.namespace, info.resource, info.name, info.subresource
            )
        } else {
            format!("{} {}", info.verb, info.path)
        };
        assert_eq!(got, expected, "{method} {uri}");
    }

    #[test]
    fn paths_and_methods_mean_what_upstream_reads_in_them() {
        check(Method::GET, "/api/v1/pods", "list |v1||pods||");
        check(Method::GET, "/api/v1/namespaces/a/pods?watch=1", "watch |v1|a|pods||");
        check(Method::GET, "/api/v1/namespaces/a/pods?watch=false", "list |v1|a|pods||");
        check(Method::GET, "/api/v1/watch/namespaces/a/pods/x", "watch |v1|a|pods|x|");
        check(Method::GET, "/api/v1/namespaces/a", "get |v1|a|namespaces|a|");
        check(Method::PUT, "/api/v1/namespaces/a/finalize", "update |v1|a|namespaces|a|finalize");
        check(Method::DELETE, "/apis/apps/v1/namespaces/a/deployments", "deletecollection apps|v1|a|deployments||");
        check(Method::POST, "/api/v1/namespaces/a/pods/x/binding", "create |v1|a|pods|x|binding");
        check(Method::GET, "/api/v1/namespaces/a/services/x/proxy/y/z", "get |v1|a|services|x|proxy");
        check(Method::GET, "/api/v1", "get /api/v1");
        check(Method::GET, "/apis/apps/v1", "get /apis/apps/v1");
        check(Method::GET, "/version", "get /version");
    }
}
