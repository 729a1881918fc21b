//! What a verifier of tokens outside the cluster reads: the issuer's metadata
//! and its public keys (OpenID Connect Discovery 1.0).

use http::{HeaderValue, Response, header};
use serde_json::json;

use crate::pipeline::body::ResponseBody;
use crate::pipeline::render;
use crate::state::Core;

const KEYS: &str = "/openid/v1/jwks";
/// How long answers may be kept, as upstream says.
const CACHE: HeaderValue = HeaderValue::from_static("public, max-age=3600");

/// The answer under one of the two paths; `None` under any other.
pub(crate) fn answer(core: &Core, path: &str) -> Option<Response<ResponseBody>> {
    let tokens = core.authenticator.tokens();
    let (kind, tree) = match path {
        KEYS => ("application/jwk-set+json", tokens.key_set()),
        "/.well-known/openid-configuration" => {
            let (address, port) = core.settings.advertise;
            let server = std::net::SocketAddr::new(address, port);
            let metadata = json!({
                "issuer": tokens.issuer(),
                "jwks_uri": format!("https://{server}{KEYS}"),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            });
            ("application/json", metadata)
        }
        _ => return None,
    };
    let mut response = render::respond(200, kind, tree.to_string());
    response.headers_mut().insert(header::CACHE_CONTROL, CACHE);
    Some(response)
}
