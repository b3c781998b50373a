//! AUTH on a [`Line`]: the challenge, the answer, Use-Path (RFC 4976, 5.1).
//!
//! Does the least that a client has to do, so that the cost of an AUTH is the relay's share. `msrp probe` looks closer.

use msrp_client::{ClientError, random_token};
use msrp_proto::digest::{Challenge, Ha1, NonceUse};
use msrp_proto::head::{Head, Kind};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::FrameWriter;

use super::line::{Line, Outlet, Party};
use crate::options::Login;
use crate::outcome::Failure;

/// A session at the relay.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// Use-Path, nearest relay first.
    pub(crate) use_path: Vec<String>,
    /// Our own URI.
    pub(crate) own_uri: String,
}

impl Granted {
    /// The path for peers.
    pub(crate) fn path_for_peers(&self) -> String {
        let relays = self.use_path.iter().rev();
        relays.chain([&self.own_uri]).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// The To-Path for a peer with this path.
    pub(crate) fn to_path(&self, peer: &str) -> String {
        self.use_path.iter().map(String::as_str).chain([peer]).collect::<Vec<_>>().join(" ")
    }
}

/// Authenticates.
pub(crate) async fn authenticate(line: &mut Line, login: &Login) -> Result<Granted, Failure> {
    let own_uri = line.mint_uri()?;
    let challenged = ask(line, login, &own_uri, None).await?;
    let refused = |answer: &Answer, hint: &str| {
        Failure::from(ClientError::AuthRefused {
            relay: login.relay.to_string(),
            by: None,
            status: answer.status,
            comment: answer.status.phrase().to_owned(),
            realm: None,
            hint: hint.to_owned(),
        })
    };
    if challenged.status != Status::UNAUTHORIZED {
        return Err(refused(&challenged, " (a challenge was expected)"));
    }
    let Some(challenge) = challenged.challenge.as_deref().and_then(|value| Challenge::parse(value).ok())
    else {
        return Err(unusable(login, "401 without a challenge that can be answered"));
    };
    let (user, uri) = (&login.credentials.user, &login.options.uri);
    let ha1 = Ha1::new(challenge.algorithm, user, &challenge.realm, &login.credentials.password);
    let cnonce = random_token(16);
    let authorization = challenge.answer(user, &ha1, uri.as_bytes(), NonceUse { nc: 1, cnonce: &cnonce });
    let credentials = login.options.credentials(&authorization);
    let granted = ask(line, login, &own_uri, Some(&credentials)).await?;
    if granted.status != Status::OK || granted.use_path.is_empty() {
        return Err(refused(&granted, ""));
    }
    Ok(Granted { use_path: granted.use_path, own_uri })
}

async fn ask(
    line: &mut Line,
    login: &Login,
    own_uri: &str,
    authorization: Option<&str>,
) -> Result<Answer, Failure> {
    let tid = random_token(12);
    let mut frame = Vec::with_capacity(512);
    let mut writer = FrameWriter::request(&mut frame, tid.as_bytes(), "AUTH")
        .header("To-Path", login.options.uri.as_bytes())
        .header("From-Path", own_uri.as_bytes());
    if let Some(authorization) = authorization {
        writer = writer.header("Authorization", authorization.as_bytes());
        if let Some(expires) = login.options.expires {
            writer = writer.header_fmt("Expires", format_args!("{expires}"));
        }
    }
    writer.end(Flag::Last);
    let mut question = Question { tid, frame: Some(frame), answer: None, complete: false };
    let limit = login.options.limit;
    let late = ClientError::NoAuthAnswer { relay: login.relay.to_string(), seconds: limit.as_secs() };
    tokio::time::timeout(limit, line.drive(&mut question)).await.map_err(|_| late)??;
    question.answer.ok_or_else(|| unusable(login, "none"))
}

fn unusable(login: &Login, reason: &str) -> Failure {
    ClientError::AuthAnswer { relay: login.relay.to_string(), reason: reason.to_owned() }.into()
}

struct Answer {
    status: Status,
    /// The strongest algorithm is a matter of security; the first challenge is enough here.
    challenge: Option<Vec<u8>>,
    use_path: Vec<String>,
}

struct Question {
    tid: String,
    frame: Option<Vec<u8>>,
    answer: Option<Answer>,
    complete: bool,
}

impl Party for Question {
    fn produce(&mut self, out: &mut Outlet<'_>) -> Result<(), Failure> {
        self.frame.take().map_or(Ok(()), |frame| out.send(&frame))
    }

    fn head(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Failure> {
        if let Kind::Response(status) = head.kind()
            && head.tid(bytes) == self.tid.as_bytes()
        {
            let text = |uri: &[u8]| String::from_utf8_lossy(uri).into_owned();
            self.answer = Some(Answer {
                status,
                challenge: head.www_authenticate(bytes).map(<[u8]>::to_vec),
                use_path: head
                    .use_path(bytes)
                    .map(|path| path.uris().map(text).collect())
                    .unwrap_or_default(),
            });
        }
        Ok(())
    }

    fn body(&mut self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn end(&mut self, _: Flag) -> Result<(), Failure> {
        self.complete = self.answer.is_some();
        Ok(())
    }

    fn done(&self) -> bool {
        self.complete
    }
}
