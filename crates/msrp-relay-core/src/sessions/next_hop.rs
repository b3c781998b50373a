//! What the settings say of a next hop: whether it is this relay, whether and where it may be dialled.

use msrp_proto::srv::PORT_DEFAULT;
use msrp_proto::status::Status;
use msrp_proto::uri::{Host, MsrpUri};

use crate::api::Target;
use crate::peers::peer::named_session;
use crate::settings::Settings;

/// A refusal: the code, and the reason for the log.
pub(super) type Refusal = (Status, &'static str);

impl Settings {
    /// Whether another URI of the same relay may belong to the same session. For URIs of this relay, in any of its
    /// processes, the ids decide.
    pub(super) fn may_be_renewed(&self, known: &[u8], uri: &[u8]) -> bool {
        let is_ours = MsrpUri::parse(uri).is_ok_and(|uri| self.is_ours(&uri));
        !is_ours || named_session(known) == named_session(uri)
    }

    /// Where to dial for a next hop. A hop that may not be dialled gets the code of one that does not answer: the
    /// client learns nothing about the network from the difference.
    pub(super) fn target(&self, uri: &MsrpUri<'_>, relay: bool) -> Result<Target, Refusal> {
        let port = uri.port().ok_or((Status::TIMEOUT, "next hop without a port"))?;
        if !uri.transport().eq_ignore_ascii_case("tcp") {
            return Err((Status::TIMEOUT, "next hop with a transport that cannot be dialled"));
        }
        if relay && !self.admits(uri.host_str()) {
            return Err((Status::TIMEOUT, "relay that is not in outbound.relays"));
        }
        if !uri.is_secure() && !self.outbound_plain {
            return Err((Status::TIMEOUT, "plain next hop; outbound.plain is refuse"));
        }
        let (secure, host) = (uri.is_secure(), uri.host_str().to_owned());
        Ok(Target { secure, host, port, by_service: false, relay, other_process: None })
    }

    /// Where to dial for an AUTH whose URI has no port: a domain's relay, or a host at the default port.
    pub(super) fn target_of_domain(&self, uri: &MsrpUri<'_>) -> Result<Target, Refusal> {
        let Host::Name(host) = uri.host() else {
            return Err((Status::TIMEOUT, "next hop without a port"));
        };
        let with_port = format!("{}://{host}:{PORT_DEFAULT};{}", scheme(uri), uri.transport());
        let target =
            MsrpUri::parse(with_port.as_bytes()).map_err(|_| (Status::BAD_REQUEST, "next hop is not a URI"));
        Ok(Target { by_service: true, ..self.target(&target?, true)? })
    }
}

fn scheme(uri: &MsrpUri<'_>) -> &'static str {
    if uri.is_secure() { "msrps" } else { "msrp" }
}
