//! Who comes to install: a browser that keeps its cookie, a frame of Bitrix24, Bitrix24's own server, and strangers.

use crate::fixture::*;
use ring::hmac;
use simulator::FrameForm;
use support::cgi::{Answer, Cgi};

/// An authorization that a browser has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Where it was sent to.
    pub location: String,
    /// As it stands in the address, encoded.
    pub state: String,
    /// `b24proxy_install=…`
    pub cookie: String,
    pub set_cookie: String,
}

impl Begun {
    /// The way back with this code and, unless changed, the right state and cookie.
    pub fn query(&self, code: &str) -> String {
        format!("code={code}&state={}&domain=ignored.example&member_id=ignored&scope=crm", self.state)
    }
}

impl Proxy {
    pub fn begin(&self) -> Begun {
        self.begin_at(&self.portal().name())
    }

    pub fn begin_at(&self, portal: &str) -> Begun {
        let answer = self.get("/install").query(&format!("portal={portal}")).run();
        assert_eq!(answer.status, 302, "{}", answer.text());
        let location = answer.header("Location").expect("Location").to_owned();
        let state = location.split("state=").nth(1).expect("a state").split('&').next().unwrap_or("").to_owned();
        let set_cookie = answer.header("Set-Cookie").expect("Set-Cookie").to_owned();
        let cookie = set_cookie.split(';').next().unwrap_or("").to_owned();
        Begun { location, state, cookie, set_cookie }
    }

    pub fn come_back(&self, begun: &Begun, code: &str) -> Answer {
        self.callback(&begun.query(code), Some(&begun.cookie))
    }

    /// The way back, and where it leads to.
    pub fn callback(&self, query: &str, cookie: Option<&str>) -> Answer {
        self.followed(self.arrived(query, cookie))
    }

    /// The way back alone.
    pub fn arrived(&self, query: &str, cookie: Option<&str>) -> Answer {
        let request = self.get("/callback").query(query);
        match cookie {
            Some(cookie) => request.header("Cookie", cookie).run(),
            None => request.run(),
        }
    }

    /// The page that a success is seen at, with what was logged on the way to it; any other answer as it is.
    pub fn followed(&self, answer: Answer) -> Answer {
        if answer.status != 303 {
            return answer;
        }
        assert!(answer.text().is_empty(), "{}", answer.text());
        let page = self.get("").query(&finished_at(&answer)).run();
        Answer { stderr: answer.stderr + &page.stderr, elapsed: answer.elapsed + page.elapsed, ..page }
    }

    /// The whole of it: `/install`, agreed to by this user, and back.
    pub fn install_in_browser(&self, user: u32) -> Answer {
        let begun = self.begin();
        self.come_back(&begun, &self.portal().issue_code(user))
    }

    /// The application opened in Bitrix24.
    pub fn opening(&self, form: &FrameForm) -> Cgi<'_> {
        Cgi::new(&self.sandbox).query(&form.query).form(&form.body)
    }

    pub fn open_as(&self, user: u32) -> Answer {
        self.opening(&self.portal().frame_form(user)).run()
    }

    pub fn post_event(&self, form: &str) -> Answer {
        Cgi::new(&self.sandbox).form(form).run()
    }

    /// Forgets the attempts of the last minute, for tests that make more than six.
    pub fn a_minute_passes(&self) {
        self.sandbox.write_token_file(&format!("{}.lock", self.stem()), "");
    }

    /// Requests for tokens that reached the OAuth server.
    pub fn asked_oauth(&self) -> usize {
        let ledger = self.simulator.ledger();
        ledger.exchanges() + ledger.refreshes()
    }

    /// Nothing that must be secret stands in this answer, nor in what was logged for it.
    #[track_caller]
    pub fn assert_no_secret(&self, answer: &Answer) {
        let shown = format!("{:?} {}\n{}", answer.headers, answer.text(), answer.stderr);
        for secret in self.simulator.secrets().iter().chain([&TOKEN.to_owned()]) {
            assert!(!shown.contains(secret.as_str()), "{secret} is shown: {shown}");
        }
    }
}

/// The text of a page with this status, the headers of every page checked on the way.
#[track_caller]
pub fn page(answer: &Answer, status: u16) -> String {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}\n{}", answer.stderr);
    assert_eq!(answer.header("Content-Type"), Some("text/html; charset=utf-8"), "{text}");
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(answer.header("Referrer-Policy"), Some("no-referrer"));
    let policy = policy(answer);
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors "), "{policy}");
    assert!(!policy.contains("unsafe-inline") && !policy.contains('*'), "{policy}");
    assert!(answer.header("X-Request-Id").is_some());
    assert!(text.starts_with("<!doctype html>"), "{text}");
    assert!(!text.contains("url(") && !text.contains("@import"), "an external resource: {text}");
    for tag in text.split('<').skip(1).filter_map(|tag| tag.split('>').next()) {
        if tag.starts_with("a ") && tag.contains(" href=\"https://www.acme.test/cgi-bin/b24proxy") {
            continue;
        }
        for loading in ["src=", "href=", "srcset=", "data="] {
            let address = tag.split(loading).nth(1);
            assert!(address.is_none_or(|a| a == "\"https://api.bitrix24.com/api/v1/\""), "an external resource: {tag}");
        }
    }
    text
}

/// The query of the address that a successful way back leads to.
#[track_caller]
pub fn finished_at(answer: &Answer) -> String {
    assert_eq!(answer.status, 303, "{}", answer.text());
    let location = answer.header("Location").expect("Location");
    assert!(!location.contains("code=") && !location.contains("state="), "{location}");
    location.split_once('?').expect("a query").1.to_owned()
}

pub fn policy(answer: &Answer) -> &str {
    answer.header("Content-Security-Policy").unwrap_or_default()
}

#[track_caller]
pub fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

/// A state that this program itself would have issued `age` seconds ago.
pub fn state_of_age(proxy: &Proxy, cookie: &str, age: i64) -> String {
    state(&proxy.portal().key_pair().client_secret, &proxy.portal().name(), cookie, unix_now() - age)
}

/// A state as the program makes it, escaped: portal and end, and a MAC over both and the cookie, keyed by the client secret.
pub fn state(client_secret: &str, portal: &str, cookie: &str, issued: i64) -> String {
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let ends = issued + 600;
    let key = sign(client_secret.as_bytes(), "b24proxy installation state");
    let mac = hex(sign(key.as_ref(), &format!("{portal}\n{ends}\n{cookie}")).as_ref());
    format!("{}%7E{ends}%7E{mac}", portal.replace(':', "_"))
}
