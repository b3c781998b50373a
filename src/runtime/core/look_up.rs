//! What proves the user that an AUTH names: a shared secret or an account of the config, here and at once, or the control
//! plane's accounts.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use super::shared::Shared;
use crate::control::{Answer, Objection, Secret, Verdict, WhyUnavailable};
use crate::runtime::settings::CoreConfig;
use crate::telemetry::{CredentialEnd, LookUpEnd};
use msrp_proto::digest::Attempt;
use msrp_relay_core::{Input, Limit, LookUpAnswer, LookUpTicket, Who};

impl Shared {
    pub(super) async fn look_up(self: &Rc<Self>, ticket: LookUpTicket, who: Who, attempt: Attempt) {
        if let Some(verdict) = self.config().shared_secrets.judge(&attempt, SystemTime::now()) {
            self.counters.credential_judged(end_of_credential(&verdict));
            let answer = match verdict {
                Verdict::Good(ha1) => LookUpAnswer::Found(ha1),
                Verdict::Bad(objection) => LookUpAnswer::Refused(objection.as_str()),
                Verdict::Wrong => LookUpAnswer::Unknown,
            };
            return self.feed([Input::LookedUp { ticket, answer }]);
        }
        let asked = Instant::now();
        let at_hand = |config: &CoreConfig| {
            config.accounts.as_ref().map(|accounts| accounts.look_up(attempt.user(), attempt.realm()))
        };
        let found = match at_hand(&self.config()) {
            Some(answer) => answer,
            None => engine::from_outside(self.control.look_up(who, attempt.clone())).await,
        };
        self.counters.looked_up(end_of(&found), asked.elapsed());
        let ha1 = Secret::ha1(found.secret(), attempt.user(), attempt.realm(), attempt.algorithm());
        let answer = match found {
            // A reload has made it one meanwhile: an account of such a name would pass for the user it is called after.
            _ if self.config().shared_secrets.take(attempt.user()) => LookUpAnswer::Unknown,
            Answer::Found(_) | Answer::Unknown => ha1.map_or(LookUpAnswer::Unknown, LookUpAnswer::Found),
            Answer::Unavailable(why) => {
                match why {
                    WhyUnavailable::Busy => self.limit_reached(Limit::LookUpsWaiting, None),
                    WhyUnavailable::Share => self.limit_reached(Limit::LookUpsPerAddress, None),
                    WhyUnavailable::Late => self.limit_reached(Limit::LookUpTimeout, None),
                    WhyUnavailable::Failed => {}
                }
                LookUpAnswer::Unavailable
            }
        };
        self.feed([Input::LookedUp { ticket, answer }]);
    }
}

fn end_of_credential(verdict: &Verdict) -> CredentialEnd {
    match verdict {
        Verdict::Good(_) => CredentialEnd::Good,
        Verdict::Bad(Objection::Expired) => CredentialEnd::Expired,
        Verdict::Bad(Objection::TooLong) => CredentialEnd::TooLong,
        Verdict::Bad(Objection::NoUser) => CredentialEnd::NoUser,
        Verdict::Wrong => CredentialEnd::Wrong,
    }
}

fn end_of(answer: &Answer) -> LookUpEnd {
    match answer {
        Answer::Found(_) => LookUpEnd::Found,
        Answer::Unknown => LookUpEnd::Unknown,
        Answer::Unavailable(WhyUnavailable::Busy | WhyUnavailable::Share) => LookUpEnd::Busy,
        Answer::Unavailable(WhyUnavailable::Late) => LookUpEnd::Late,
        Answer::Unavailable(WhyUnavailable::Failed) => LookUpEnd::Failed,
    }
}
