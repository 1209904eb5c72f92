//! The pages as people see them: in Chromium, behind Apache, with the simulator's authorization and frame pages around
//! them. With `B24PROXY_SHOTS=folder` each test leaves pictures there, to be looked at; with `B24PROXY_PICTURES=folder` it
//! makes those of the documents.

#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;

use base64::prelude::{Engine, BASE64_STANDARD};
use fixture::*;
use simulator::{Options, PortalOptions};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;
use support::browser::Browser;
use support::eventually;
use support::webserver::{Kind, WebServer};

/// A proxy behind Apache, a portal that asks before it agrees, and a browser.
struct Stage {
    // In the order in which they are to end.
    browser: Browser,
    server: WebServer,
    proxy: Proxy,
}

impl Stage {
    fn new(language: &str) -> Stage {
        Stage::with(language, Options::default())
    }

    fn with(language: &str, options: Options) -> Stage {
        let proxy = Proxy::with(Options { auto_agree: false, ..options });
        let server = WebServer::start(&proxy.sandbox, Kind::ApacheCgid);
        let address = server.url("/cgi-bin/b24proxy");
        let proxy = proxy.reconfigured("https://www.acme.test/cgi-bin/b24proxy", &address);
        proxy.simulator.set_redirect_uri(&address);
        proxy.simulator.set_handler(&address);
        let script = format!("api.bitrix24.com:443 {}", proxy.portal().name());
        let browser = Browser::start(&proxy.sandbox, language, &[script]);
        Stage { browser, server, proxy }
    }

    fn url(&self, path: &str) -> String {
        self.server.url(&format!("/cgi-bin/b24proxy{path}"))
    }

    fn begin(&self) {
        self.browser.open(&self.url(&format!("/install?portal={}", self.proxy.portal().name())));
    }

    /// The page that Bitrix24 puts around the application, opened by this user.
    fn open_application(&self, user: u32) {
        self.browser.open(&format!("{}/marketplace/app/?user={user}", self.proxy.portal().url()));
        self.browser.enter_frame("#application");
    }

    /// `/status`, with credentials that the browser remembers from then on.
    fn log_in(&self) {
        self.browser.open(&self.url("/status").replace("http://", &format!("http://1c:{TOKEN}@")));
        self.browser.requests();
        self.browser.open(&self.url("/status"));
        assert!(self.browser.text("main").contains(&self.proxy.portal().name()));
    }

    /// The page of an answer with 401, as it is seen when the browser's own question for a password has been closed: without
    /// a window it waits for an answer for ever.
    fn show_without_asking(&self, url: &str, language: &str) {
        self.proxy.sandbox.write("htdocs/blank.html", 0o644, b"<!doctype html><title>blank</title>");
        self.browser.open(&self.server.url("/blank.html"));
        let headers = serde_json::json!({ "Accept": "text/html", "Accept-Language": language });
        self.browser.run(&format!(
            "return fetch('{url}', {{credentials: 'omit', headers: {headers}}}).then(answer => answer.text())
                 .then(text => {{ document.open(); document.write(text); document.close(); }})"
        ));
    }

    /// Looks at the page in a narrow and a wide window, light and dark.
    fn look(&self, name: &str) {
        for (width, height) in [(360, 740), (1280, 900)] {
            self.browser.resize(width, height);
            for dark in [false, true] {
                self.browser.prefer_dark(dark);
                let scheme = if dark { "dark" } else { "light" };
                self.picture(&format!("{name}-{width}-{scheme}"));
                self.assert_readable(dark);
            }
        }
        self.browser.prefer_dark(false);
    }

    /// Nothing is wider than the window, and ink and paper differ enough (WCAG 2.2, 1.4.3: 4.5 to 1).
    fn assert_readable(&self, dark: bool) {
        let widths = self.browser.run("return [document.documentElement.scrollWidth, window.innerWidth]");
        let width = |i: usize| widths[i].as_u64().expect("a number");
        assert!(width(0) <= width(1), "{} px wide in a window of {} px", width(0), width(1));
        let contrasts = self.browser.run(CONTRASTS);
        for found in contrasts.as_array().expect("a list") {
            let ratio = found["ratio"].as_f64().expect("a number");
            assert!(ratio >= 4.5, "{found} (dark: {dark})");
        }
        assert!(!contrasts.as_array().unwrap().is_empty());
        let paper = self.browser.run("return getComputedStyle(document.body).backgroundColor");
        let is_dark = paper != "rgb(255, 255, 255)";
        assert_eq!(is_dark, dark, "the page's background is {paper}");
    }

    fn picture(&self, name: &str) {
        if let Some(folder) = std::env::var_os("B24PROXY_SHOTS") {
            self.save(&folder, name);
        }
    }

    /// The whole page as a picture for the documents, with the names that they use in place of the test's.
    fn picture_for_documents(&self, name: &str) {
        let Some(folder) = std::env::var_os("B24PROXY_PICTURES") else { return };
        let ours = format!("Соединение = Новый HTTPСоединение(\"127.0.0.1\", {}, , , , 60);", self.server.port());
        let theirs = "Защита = Новый ЗащищенноеСоединениеOpenSSL(, Новый СертификатыУдостоверяющихЦентровОС);\n\
                      Соединение = Новый HTTPСоединение(\"www.example.com\", , , , , 60, Защита);";
        let portal = self.proxy.portal().name();
        let names =
            serde_json::json!([[portal, "acme.bitrix24.ru"], [ours, theirs], ["Анна Ёлкина/Петрова", "Анна Петрова"]]);
        self.browser.run(&format!(
            "const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
             while (texts.nextNode()) {{
                 for (const [ours, theirs] of {names}) {{
                     texts.currentNode.data = texts.currentNode.data.replaceAll(ours, theirs);
                 }}
             }}"
        ));
        self.browser.resize(720, 1);
        let height = self.browser.run("return document.documentElement.scrollHeight").as_u64().expect("a number");
        self.browser.resize(720, height as u32);
        // Until the new size has been painted.
        self.browser.run("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))");
        self.save(&folder, name);
    }

    fn save(&self, folder: &OsStr, name: &str) {
        let png = BASE64_STANDARD.decode(self.browser.screenshot()).expect("base64");
        std::fs::write(Path::new(folder).join(format!("{name}.png")), png).expect("a folder that can be written");
    }

    /// What the console says, but for the portal's missing icon.
    fn console(&self) -> Vec<String> {
        let icon = format!("{}/favicon.ico", self.proxy.portal().url());
        self.browser.console().into_iter().filter(|line| !line.starts_with(&icon)).collect()
    }

    /// The console is empty, and nobody was asked but this proxy, the portal and, for its script, Bitrix24.
    fn assert_quiet(&self) {
        let console = self.console();
        assert!(console.is_empty(), "{console:#?}");
        let requests = self.browser.requests();
        assert!(!requests.is_empty());
        for url in requests {
            let known = [self.server.url("/cgi-bin/b24proxy"), self.proxy.portal().url()];
            let known = known.iter().any(|prefix| url.starts_with(prefix.as_str()));
            assert!(known || url == "https://api.bitrix24.com/api/v1/", "a request to {url}");
        }
    }

    fn assert_installed(&self) {
        let tokens = self.proxy.stored();
        assert_eq!(tokens["user_id"], 1);
        assert!(self.proxy.portal().is_live(tokens["refresh_token"].as_str().unwrap()));
    }
}

/// The contrast of every text with what is behind it.
const CONTRASTS: &str = r#"
const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4);
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const parts = text => text.match(/[\d.]+/g).map(Number);
const behind = e => {
  for (; e; e = e.parentElement) {
    const c = parts(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) { return c; }
  }
  return [255, 255, 255];
};
const texts = [...document.querySelectorAll("h1, h2, p, th, td, pre, label, button, a")].filter(e => e.offsetWidth);
return texts.map(e => {
  const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))];
  return {text: e.textContent.slice(0, 30), ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)};
});
"#;

#[test]
fn an_administrator_installs_in_a_browser_from_the_address_to_the_last_page() {
    let stage = Stage::new("en-US");
    stage.begin();
    stage.browser.wait_for_text("h1", "Bitrix24");
    stage.browser.click("#administrator");
    stage.browser.wait_for_text("h1", "b24proxy is installed");
    assert_eq!(stage.browser.run("return document.documentElement.lang"), "en");
    assert!(stage.browser.text("table").contains("Анна Ёлкина/Петрова (ID 1)"));
    assert!(stage.browser.text("pre").contains("HTTPСоединение"));
    assert!(stage.browser.cookies().is_empty(), "the cookie was taken back");
    stage.assert_installed();
    stage.look("installed-en");
    stage.assert_quiet();
    stage.picture_for_documents("installed");

    // Loaded again, it says the same.
    let stored = stage.proxy.stored_bytes();
    stage.browser.open(&stage.browser.url());
    stage.browser.wait_for_text("h1", "b24proxy is installed");
    assert_eq!(stage.proxy.stored_bytes(), stored);
    stage.browser.click(".buttons a");
    stage.browser.wait_for_text("h1", "The call was answered");
    assert!(stage.browser.text("p").contains("Анна Ёлкина/Петрова (ID 1)"));
    stage.look("tried-en");
    stage.assert_quiet();

    // A state is used up.
    stage.browser.open(&stage.url("/callback?code=x&state=y"));
    stage.browser.wait_for_text("h1", "This link is no longer valid");
    stage.look("state-en");
    stage.assert_installed();
}

#[test]
fn the_request_for_1c_is_copied_at_a_button() {
    let stage = Stage::new("ru");
    stage.begin();
    stage.browser.click("#administrator");
    stage.browser.wait_for_text("h1", "b24proxy установлен");
    assert_eq!(stage.browser.text(".code button"), "Скопировать");
    stage.browser.click(".code button");
    stage.browser.wait_for_text(".code button", "Скопировано");
    let selected = stage.browser.run("return getSelection().toString().trim()");
    assert_eq!(selected, stage.browser.run("return document.querySelector('.code pre').textContent.trim()"));
    // In a window as narrow as a phone's the code scrolls, and its lines stay whole.
    stage.browser.resize(360, 740);
    let lines = "const c = document.querySelector('.code pre'); return [c.scrollWidth > c.clientWidth, c.scrollHeight <= c.clientHeight]";
    assert_eq!(stage.browser.run(lines), serde_json::json!([true, true]));
    stage.assert_quiet();
}

#[test]
fn the_programs_own_address_leads_to_an_installation_and_to_the_state() {
    for language in ["ru", "en"] {
        let stage = Stage::new(language);
        let title = if language == "ru" {
            "b24proxy: вызовы из 1С в Битрикс24"
        } else {
            "b24proxy: calls from 1C to Bitrix24"
        };
        stage.browser.open(&stage.url(""));
        stage.browser.wait_for_text("h1", title);
        stage.look(&format!("front-{language}"));

        stage.browser.write("#portal", "acmee.bitrix24.ru");
        stage.browser.click("button");
        let title =
            if language == "ru" { "Портал не настроен" } else { "This portal is not configured" };
        stage.browser.wait_for_text("h1", title);
        assert!(stage.browser.text("p").contains("acmee.bitrix24.ru"));
        assert_eq!(stage.browser.text("pre"), "[portals.\"acmee.bitrix24.ru\"]");
        stage.look(&format!("unknown-{language}"));
        // The address stands in the field, to be mended.
        stage.browser.run("document.querySelector('#portal').value = ''");
        stage.browser.write("#portal", &stage.proxy.portal().name());
        stage.browser.click("form button");
        stage.browser.click("#administrator");
        let done = if language == "ru" { "b24proxy установлен" } else { "b24proxy is installed" };
        stage.browser.wait_for_text("h1", done);
        stage.look(&format!("finished-{language}"));
    }
}

#[test]
fn without_a_token_the_state_is_a_page_that_says_what_to_do() {
    for language in ["ru", "en"] {
        let stage = Stage::new(language);
        stage.show_without_asking(&stage.url("/status"), language);
        let title =
            if language == "ru" { "Нужен токен клиента" } else { "A client's token is needed" };
        stage.browser.wait_for_text("h1", title);
        stage.look(&format!("unauthorized-{language}"));
        stage.browser.open(&stage.url("/nothing"));
        let title = if language == "ru" {
            "По этому адресу ничего нет"
        } else {
            "There is nothing at this address"
        };
        stage.browser.wait_for_text("h1", title);
        stage.look(&format!("nothing-{language}"));
        let proxy = &stage.proxy;
        proxy.sandbox.write_config(&proxy.config().replace("[limits]", "[limits]\nnonsense = 1"));
        stage.browser.open(&stage.url(""));
        let title = if language == "ru" {
            "b24proxy настроен неверно"
        } else {
            "b24proxy is not configured correctly"
        };
        stage.browser.wait_for_text("h1", title);
        stage.look(&format!("misconfigured-{language}"));
    }
}

#[test]
fn an_employee_is_told_in_russian_who_can_install() {
    let stage = Stage::new("ru-RU");
    stage.begin();
    stage.browser.click("#employee");
    stage.browser.wait_for_text("h1", "Нужен администратор портала");
    assert_eq!(stage.browser.run("return document.documentElement.lang"), "ru");
    assert_eq!(stage.proxy.stored_bytes(), None);
    stage.look("employee-ru");
    stage.picture_for_documents("employee.ru");
    let console: Vec<String> = stage.console().into_iter().filter(|line| !line.contains("403")).collect();
    assert!(console.is_empty(), "{console:#?}");

    stage.browser.click("a");
    stage.browser.click("#administrator");
    stage.browser.wait_for_text("h1", "b24proxy установлен");
}

#[test]
fn the_form_of_the_first_page_leads_to_the_portal_and_back() {
    for (language, title, done) in
        [("ru", "Установка b24proxy", "b24proxy установлен"), ("en", "Install b24proxy", "b24proxy is installed")]
    {
        let stage = Stage::new(language);
        stage.browser.open(&stage.url("/install"));
        stage.browser.wait_for_text("h1", title);
        stage.look(&format!("start-{language}"));
        stage.browser.write("#portal", &format!("https://{}/", stage.proxy.portal().name()));
        stage.browser.click("button");
        stage.browser.click("#administrator");
        stage.browser.wait_for_text("h1", done);
        stage.look(&format!("installed-form-{language}"));
        stage.assert_installed();
        stage.assert_quiet();
        if language == "ru" {
            stage.picture_for_documents("installed.ru");
        }
    }
}

#[test]
fn the_application_opened_in_bitrix24_installs_itself_in_the_frame_and_ends_the_installation() {
    let stage = Stage::new("en-US");
    stage.open_application(1);
    // In the language of the portal (LANG), not of the browser.
    stage.browser.wait_for_text("h1", "b24proxy установлен");
    let finished = |ledger: &simulator::Ledger| ledger.install_finished() == 1;
    assert!(stage.proxy.simulator.wait_for(Duration::from_secs(10), finished), "{:?}", stage.browser.console());
    stage.assert_installed();
    stage.picture("frame-installed");
    stage.assert_quiet();

    stage.open_application(2);
    stage.browser.wait_for_text("h1", "b24proxy уже установлен и работает");
    let widths = stage.browser.run("return document.documentElement.scrollWidth <= window.innerWidth");
    assert_eq!(widths, true);
    stage.assert_installed();
    stage.picture("frame-works-already");
    let finished = |ledger: &simulator::Ledger| ledger.install_finished() == 2;
    assert!(stage.proxy.simulator.wait_for(Duration::from_secs(10), finished));
    stage.assert_quiet();
}

#[test]
fn an_employee_in_the_frame_is_told_so_and_the_installation_goes_on() {
    let stage = Stage::new("ru");
    stage.open_application(2);
    stage.browser.wait_for_text("h1", "Нужен администратор портала");
    assert_eq!(stage.browser.run("return document.scripts.length"), 0);
    stage.picture("frame-employee");
    assert_eq!(stage.proxy.simulator.ledger().install_finished(), 0);
    assert_eq!(stage.proxy.stored_bytes(), None);
}

#[test]
fn no_other_site_can_put_a_page_into_a_frame() {
    let stage = Stage::new("en");
    stage.proxy.sandbox.write(
        "htdocs/evil.html",
        0o644,
        format!("<!doctype html><iframe id=f src=\"{}\"></iframe>", stage.url("/install")).as_bytes(),
    );
    stage.browser.open(&stage.server.url("/evil.html"));
    stage.browser.enter_frame("#f");
    assert_ne!(stage.browser.run("return document.title"), "Install b24proxy · b24proxy");
    stage.browser.leave_frame();
    let console = stage.browser.console().join("\n");
    assert!(console.contains("frame-ancestors"), "{console}");
}

#[test]
fn a_right_that_was_not_granted_is_seen_at_first_sight() {
    let portal = PortalOptions { scope: Some("crm".into()), ..PortalOptions::default() };
    let stage = Stage::with("ru", Options { portal, ..Options::default() });
    stage.begin();
    stage.browser.click("#administrator");
    assert!(stage.browser.text("p.warning").contains("Не выданы права: catalog."));
    stage.look("missing-right-ru");
    stage.assert_quiet();
}

#[test]
fn the_state_of_the_portals_is_a_page_for_whoever_knows_the_token() {
    for language in ["ru", "en"] {
        let mut stage = Stage::new(language);
        let [fresh, dead] = [(); 2].map(|()| stage.proxy.simulator.add_portal(PortalOptions::default()));
        let more = format!("[portals.\"{}\"]\n\n[portals.\"{}\"]\n\n[limits]", fresh.name(), dead.name());
        stage.proxy = stage.proxy.reconfigured("[limits]", &more);
        stage.proxy.store_pair(&stage.proxy.portal().issue_pair(1));
        stage.proxy.change_stored(|tokens| tokens["user_name"] = "Анна Ёлкина/Петрова".into());
        write_a_day(&stage.proxy);
        // One portal was never installed, of another the tokens are dead.
        let of_dead = format!("{}.json", dead.name().replace(':', "_"));
        let pair = token_file(&dead.issue_pair(1), stage.proxy.simulator.client_id(), unix_now() + 3600);
        stage.proxy.sandbox.write_token_file(&of_dead, &pair.to_string());
        dead.revoke_access_tokens();
        dead.revoke_refresh_tokens();
        let call = serde_json::json!({"domain": dead.name(), "method": "profile"});
        assert_eq!(stage.proxy.request(call.to_string()).run().status, 409);

        stage.log_in();
        let text = stage.browser.text("main");
        for said in match language {
            "ru" => ["Работает; токен обновится сам", "Нужна установка", "больше не принимает токены", "crm.deal.list"],
            _ => [
                "Works; the token renews by itself",
                "Needs installing",
                "no longer accepts the tokens",
                "crm.deal.list",
            ],
        } {
            assert!(text.contains(said), "{said}: {text}");
        }
        // Times are those of where the page is read.
        assert!(!stage.browser.text("time").contains("UTC"));
        let buttons =
            stage.browser.run("return document.querySelectorAll('a.button[href*=\"/install?portal=\"]').length");
        let bars = "return [...document.querySelectorAll('svg rect.calls')].filter(bar => bar.getBoundingClientRect().height > 1).length";
        let bars = stage.browser.run(bars).as_u64().expect("a number");
        assert!(buttons == 2 && bars >= 12, "{buttons} {bars}");
        stage.look(&format!("status-{language}"));
        stage.assert_quiet();
        if language == "ru" {
            stage.browser.run(&format!(
                "for (const section of document.querySelectorAll('section.portal')) {{
                     if (!section.textContent.includes('{}')) {{ section.remove(); }}
                 }}",
                stage.proxy.portal().name()
            ));
            stage.picture_for_documents("status.ru");
        }
    }
}

/// A day's work, as calls would have left it: busy by day, a few errors, and a method that rests.
fn write_a_day(proxy: &Proxy) {
    let (now, hours): (i64, Vec<u32>) = (
        unix_now(),
        vec![212, 340, 298, 410, 380, 295, 120, 40, 12, 0, 0, 0, 0, 0, 3, 18, 60, 150, 310, 420, 380, 290, 240, 110],
    );
    let errors = [2, 0, 1, 14, 0, 0, 3];
    let known = serde_json::json!({
        "level": 17.0, "at": now * 1000, "blocked": {"crm.deal.list": (now + 400) * 1000},
        "tally": {
            "slot": now / 300,
            "clients": {"auth_token": {"c": [[20, 31, 28, 22, 30, 27, 25, 29], hours], "e": [[0, 2], errors]}},
            "last_call": now - 20, "succeeded": now - 20,
            "last_error": {"at": now - 420, "error_code": "bitrix24_error", "method": "crm.deal.update", "bitrix24": "ACCESS_DENIED"},
        },
    });
    proxy.sandbox.write_token_file(&format!("{}.limits", proxy.stem()), &known.to_string());
}

#[test]
fn a_page_of_another_site_cannot_use_the_credentials_that_the_browser_remembers() {
    let stage = Stage::new("en");
    stage.proxy.store_pair(&stage.proxy.portal().issue_pair(1));
    let before = stage.proxy.stored_bytes();
    stage.log_in();
    let evil = WebServer::start(&stage.proxy.sandbox, Kind::ApacheCgid);
    stage.proxy.sandbox.write("htdocs/evil.html", 0o644, b"<!doctype html><title>evil</title>");
    stage.browser.open(&evil.url("/evil.html"));
    let call = r#"{"method":"crm.deal.add","params":{"fields":{"TITLE":"evil"}}}"#;
    stage.browser.run(&format!(
        "const how = {{mode: 'no-cors', credentials: 'include'}};
         return Promise.all([
             fetch('{status}', how),
             fetch('{root}', {{...how, method: 'POST', headers: {{'Content-Type': 'text/plain'}}, body: '{call}'}}),
         ]).then(() => 'sent')",
        status = stage.url("/status"),
        root = stage.url(""),
    ));
    // With credentials (not 401), and refused. A request is logged when its answer has been sent.
    eventually("both are refused", || stage.server.access_log().matches("\" 403 ").count() == 2);
    assert_eq!(stage.proxy.simulator.ledger().calls("crm.deal.add"), 0);
    assert_eq!(stage.proxy.stored_bytes(), before);
}
