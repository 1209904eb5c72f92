//! A portal: the handle that tests hold, and its listeners' way to REST or pages.

use std::io::{self, Read};
use std::sync::Arc;

use crate::addresses::FILE;
use crate::bucket::Bucket;
use crate::client::{post_form, HttpAnswer};
use crate::entities;
use crate::faults::{Action, Fault, Moment};
use crate::file_methods::Document;
use crate::files::{Content, File};
use crate::http::{Reply, Request, Wait};
use crate::kinds::ListFault;
use crate::leak::{self, LeakAs};
use crate::ledger::Kind;
use crate::oauth::{KeyPair, TokenPair};
use crate::pages;
use crate::params::encode_pairs;
use crate::php::{Array, Php};
use crate::random;
use crate::rest::{self, Route};
use crate::server::{lock, Server, Service};
use crate::state::{OperatingLimit, PortalState, Shared};

/// A portal of the simulator. Clones are the same portal.
#[derive(Clone)]
pub struct Portal {
    pub(crate) shared: Arc<Shared>,
    pub(crate) index: usize,
}

/// An application opened in Bitrix24: `POST handler?QUERY` with a form.
#[derive(Clone, Debug)]
pub struct FrameForm {
    /// `DOMAIN=…&PROTOCOL=1&LANG=ru&APP_SID=…`
    pub query: String,
    /// `AUTH_ID=…&…`, URL-encoded.
    pub body: String,
    /// The same as pairs.
    pub fields: Vec<(String, String)>,
    pub app_sid: String,
    pub access_token: String,
    pub refresh_token: String,
}

/// The `iblockId` of products that are seeded.
const IBLOCK: i64 = 24;

impl Portal {
    fn read<T>(&self, f: impl FnOnce(&PortalState) -> T) -> T {
        f(&self.shared.state().portals[self.index])
    }

    fn change<T>(&self, f: impl FnOnce(&mut PortalState) -> T) -> T {
        f(&mut self.shared.state().portals[self.index])
    }

    /// `127.0.0.1:41002`: what stands as `[portals."…"]` in a configuration.
    pub fn name(&self) -> String {
        self.read(|p| p.name.clone())
    }

    /// `https://127.0.0.1:41002`
    pub fn url(&self) -> String {
        self.read(PortalState::url)
    }

    /// `https://127.0.0.1:41002/rest/`
    pub fn client_endpoint(&self) -> String {
        self.read(PortalState::client_endpoint)
    }

    pub fn member_id(&self) -> String {
        self.read(|p| p.member_id.clone())
    }

    pub fn set_member_id(&self, member_id: &str) {
        self.change(|p| member_id.clone_into(&mut p.member_id));
    }

    pub fn application_token(&self) -> String {
        self.read(|p| p.application_token.clone())
    }

    /// The key pair of the application at this portal: its own, or the simulator's.
    pub fn key_pair(&self) -> KeyPair {
        self.read(|p| p.application.clone())
    }

    /// An incoming webhook of user 1: `https://127.0.0.1:41002/rest/1/CODE/`
    pub fn webhook_url(&self) -> String {
        self.read(|p| format!("{}/rest/1/{}/", p.url(), p.webhook_code))
    }

    /// The same for REST 3.0.
    pub fn webhook3_url(&self) -> String {
        self.read(|p| format!("{}/rest/api/1/{}/", p.url(), p.webhook_code))
    }

    /// A code, as if this user had agreed on the authorization page. Valid 30 seconds.
    pub fn issue_code(&self, user: u32) -> String {
        let now = self.shared.clock.now();
        let client_id = self.key_pair().client_id;
        self.ensure_user(user);
        let mut state = self.shared.state();
        state.oauth.add_code(self.index, user, &client_id, now)
    }

    /// A valid pair for this user.
    pub fn issue_pair(&self, user: u32) -> TokenPair {
        let now = self.shared.clock.now();
        let client_id = self.key_pair().client_id;
        self.ensure_user(user);
        let mut state = self.shared.state();
        state.pair(self.index, user, &client_id, now)
    }

    /// Unknown users are employees.
    fn ensure_user(&self, user: u32) {
        self.change(|p| {
            p.users.entry(user).or_insert(false);
        });
    }

    /// Calls with the tokens issued so far answer `expired_token`.
    pub fn expire_access_tokens(&self) {
        self.shared.state().oauth.expire_access(self.index);
    }

    /// Calls with the tokens issued so far answer `invalid_token`.
    pub fn revoke_access_tokens(&self) {
        self.shared.state().oauth.revoke_access(self.index);
    }

    /// Refreshes with the tokens issued so far answer `invalid_grant`.
    pub fn revoke_refresh_tokens(&self) {
        self.shared.state().oauth.revoke_refresh(self.index);
    }

    /// As after removing the application: both kinds of tokens are dead.
    pub fn uninstall(&self) {
        self.revoke_access_tokens();
        self.revoke_refresh_tokens();
    }

    /// Whether a refresh with this token would succeed.
    pub fn is_live(&self, refresh_token: &str) -> bool {
        let now = self.shared.clock.now();
        self.shared.state().oauth.is_live(refresh_token, now)
    }

    /// `expires_in` of the pairs issued from now on; 3600 at first.
    pub fn set_token_lifetime(&self, seconds: u64) {
        self.change(|p| p.token_lifetime = seconds);
    }

    /// User 1 is an administrator and user 2 an employee at first.
    pub fn set_user_admin(&self, user: u32, admin: bool) {
        self.change(|p| p.users.insert(user, admin));
    }

    /// `crm,catalog`; takes effect at once.
    pub fn set_scope(&self, scope: &str) {
        self.change(|p| scope.clone_into(&mut p.scope));
    }

    /// Adds to what is granted: `disk,documentgenerator`
    pub fn grant(&self, scope: &str) {
        self.change(|p| p.scope = format!("{},{scope}", p.scope));
    }

    /// Calls answer 500 `PORTAL_DELETED`, token requests `invalid_grant`.
    pub fn set_deleted(&self, deleted: bool) {
        self.change(|p| p.deleted = deleted);
    }

    /// Token requests answer `PAYMENT_REQUIRED`, and spend nothing.
    pub fn set_payment_required(&self, required: bool) {
        self.change(|p| p.payment_required = required);
    }

    /// The OAuth server gives another `client_endpoint` than the portal's own.
    pub fn set_client_endpoint(&self, endpoint: Option<&str>) {
        self.change(|p| p.endpoint_override = endpoint.map(str::to_owned));
    }

    /// REST 3.0 answers authentication errors in the shape of REST 2.
    pub fn set_old_auth_errors(&self, old: bool) {
        self.change(|p| p.old_auth_errors = old);
    }

    /// REST 3.0 answers every failure of authorization with 401 `BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION`, as Bitrix24 does,
    /// instead of REST 2's code in its own shape.
    pub fn set_rest3_access_denied(&self, denied: bool) {
        self.change(|p| p.rest3_access_denied = denied);
    }

    /// JSON answers have `/` as it is; PHP, and so Bitrix24, writes `\/`.
    pub fn set_plain_slashes(&self, plain: bool) {
        self.change(|p| p.plain_slashes = plain);
    }

    /// REST 3.0 takes every entry of a batch's body for a command, so that an access token among them refuses all of it. The
    /// real portal is not lenient; this one is at first, for callers that have no other place for their token.
    pub fn set_lenient_rest3_batch(&self, lenient: bool) {
        self.change(|p| p.lenient_rest3_batch = lenient);
    }

    /// A web server in front swallows `Authorization`: what carries its token there has none.
    pub fn set_strips_authorization(&self, strips: bool) {
        self.change(|p| p.strips_authorization = strips);
    }

    /// Limits calls; without it they are unlimited. Bitrix24 has 2 a second and 50.
    pub fn set_bucket(&self, rate: f64, burst: f64) {
        let now = self.shared.clock.now();
        self.change(|p| p.bucket = Some(Bucket::new(rate, burst, now)));
    }

    pub fn remove_bucket(&self) {
        self.change(|p| p.bucket = None);
    }

    /// How full the bucket is.
    pub fn bucket_level(&self) -> f64 {
        let now = self.shared.clock.now();
        self.read(|p| p.bucket.as_ref().map_or(0.0, |b| b.level(now)))
    }

    /// The method answers 429 `OPERATION_TIME_LIMIT` for so long.
    pub fn block_method(&self, method: &str, seconds: f64) {
        let until = self.shared.clock.now() + seconds;
        self.change(|p| p.blocked.insert(method.to_lowercase(), until));
    }

    /// What `time.operating` says for the method.
    pub fn set_operating(&self, method: &str, seconds: f64) {
        self.change(|p| p.operating.insert(method.to_lowercase(), seconds));
    }

    /// Each method has so many seconds in a window of so many, and each call or command uses `cost` of them. `time.operating`
    /// tells what is used; above, the method is refused with `OPERATION_TIME_LIMIT`. Bitrix24 has 480 in 600.
    pub fn set_operating_limit(&self, seconds: f64, window: f64, cost: f64) {
        self.change(|p| p.operating_limit = Some(OperatingLimit::new(seconds, window, cost)));
    }

    pub fn remove_operating_limit(&self) {
        self.change(|p| p.operating_limit = None);
    }

    /// The next calls and commands of the method, so many, are refused with this code (a command's batch is not).
    pub fn refuse_next(&self, method: &str, code: &str, times: usize) {
        self.change(|p| p.refusals.insert(method.to_lowercase(), (code.to_owned(), times)));
    }

    /// Every call is refused with 503 `OVERLOAD_LIMIT`.
    pub fn set_overloaded(&self, overloaded: bool) {
        self.change(|p| p.overloaded = overloaded);
    }

    /// Adds `count` records (`TITLE` or `title` in Russian, with a `/`) to `crm.deal`, `crm.item`,
    /// `tasks.task`, `catalog.product`, `sale.order`, …
    ///
    /// # Panics
    /// Where there are no such records.
    pub fn seed(&self, kind: &str, count: u32) {
        self.seed_with(kind, count, 0);
    }

    /// Deletes records, without a call; how many were there.
    ///
    /// # Panics
    /// Where there are no such records.
    pub fn unseed(&self, kind: &str, ids: impl IntoIterator<Item = i64>) -> usize {
        let kind = entities::KINDS.iter().find(|k| k.prefix == kind).expect("a kind of records");
        let mut removed = 0;
        self.change(|p| removed = p.store.remove(kind, ids));
        removed
    }

    /// All lists of this portal misbehave.
    pub fn set_list_fault(&self, fault: Option<ListFault>) {
        self.change(|p| p.list_fault = fault);
    }

    pub(crate) fn has_kind(&self, kind: &str) -> bool {
        entities::KINDS.iter().any(|k| k.prefix == kind)
    }

    /// For `crm.item`: of this `entityTypeId`.
    pub fn seed_items(&self, entity_type_id: i64, count: u32) {
        self.seed_with("crm.item", count, entity_type_id);
    }

    fn seed_with(&self, kind: &str, count: u32, entity_type_id: i64) {
        let found = entities::KINDS.iter().find(|k| k.prefix == kind);
        let kind = found.unwrap_or_else(|| panic!("the simulator has no {kind}"));
        let params = match entity_type_id {
            0 => Array::new(),
            id => Array::new().with("entityTypeId", id),
        };
        self.change(|p| {
            let table = p.store.table(kind, &params);
            for i in 1..=count {
                let title = format!("Запись №{i}/{count}");
                let stage = if i % 2 == 0 { "WON" } else { "NEW" };
                let fields = if kind.id == entities::Id::UpperText {
                    Array::new().with("TITLE", title).with("STAGE_ID", stage)
                } else {
                    Array::new().with("title", title).with("stageId", stage)
                };
                let mut fields = fields.with("OPPORTUNITY", Php::Int(i64::from(i) * 10));
                if let Some(needed) = kind.listing.needs {
                    fields.put(needed, Php::Int(IBLOCK));
                }
                table.add(kind, &fields);
            }
        });
    }

    /// Stores a file; answers its ID.
    pub fn store_file(&self, file: File) -> i64 {
        self.change(|p| p.store_file(file))
    }

    /// Stores a file of that many bytes, which are made as they are read: `disk.file.get` answers its address. Answers its ID.
    pub fn seed_file(&self, name: &str, size: u64) -> i64 {
        self.change(|p| {
            let seed = p.files.len() as u64 + 1;
            p.store_file(File::new(name, Content::generated(size, seed)))
        })
    }

    pub fn file(&self, id: i64) -> Option<File> {
        self.read(|p| p.files.get(&id).cloned())
    }

    /// Puts a stored file into a field of a record: answers have its addresses there, as the record's kind has them. (The same
    /// by REST: `{"sim.file": ID}` for the field's value.) `entity_type_id` counts for `crm.item` only.
    ///
    /// # Panics
    /// Where there is no such record.
    pub fn attach_file(&self, kind: &str, entity_type_id: i64, record: i64, field: &str, file: i64) {
        self.try_attach(kind, entity_type_id, record, field, file).expect("a record to attach the file to");
    }

    pub(crate) fn try_attach(
        &self,
        kind: &str,
        entity_type_id: i64,
        record: i64,
        field: &str,
        file: i64,
    ) -> Option<()> {
        let kind = entities::KINDS.iter().find(|k| k.prefix == kind)?;
        let params = Array::new().with("entityTypeId", entity_type_id);
        let fields = Array::new().with(field, Array::new().with(FILE, file));
        self.change(|p| p.store.table(kind, &params).update(kind, record, &fields)).then_some(())
    }

    /// A document of the document generator: stored files for itself, its PDF and its image. Answers its ID.
    pub fn store_document(&self, title: &str, file: i64, pdf: Option<i64>, image: Option<i64>) -> i64 {
        self.change(|p| {
            let id = p.documents.keys().next_back().unwrap_or(&0) + 1;
            p.documents.insert(id, Document { title: title.to_owned(), file, pdf, image });
            id
        })
    }

    /// Files are handed out only to who sends `Accept`, `Accept-Language`, `Referer` and `User-Agent`; others get nginx's 404,
    /// beside the file's `Content-Disposition`. So at first.
    pub fn set_picky_downloads(&self, picky: bool) {
        self.change(|p| p.picky_downloads = picky);
    }

    /// An answer in place of execution that repeats this pair's tokens and the portal's own secrets: for a fault, at the token
    /// endpoint too. (Calls have it from the method `sim.leak {"as": "success", …, "status"}`.)
    pub fn leak(&self, pair: &TokenPair, shape: LeakAs, status: u16) -> Action {
        self.leak_of(&pair.access_token, &pair.refresh_token, shape, Some(status))
    }

    pub(crate) fn leak_of(&self, access: &str, refresh: &str, shape: LeakAs, status: Option<u16>) -> Action {
        let secrets = self.read(|p| leak::secrets_of(p, Some(access), Some(refresh)));
        let reply = leak::reply(&secrets, shape, status, "{}");
        let content_type = reply.headers.first().map(|(_, value)| value.clone()).unwrap_or_default();
        Action::Status { status: reply.status, content_type, body: String::from_utf8_lossy(&reply.body).into_owned() }
    }

    /// A fault at this portal only (token requests: those with this portal's tokens and codes).
    /// Answers a number for `Simulator::remove_fault`.
    pub fn inject(&self, mut fault: Fault) -> u64 {
        fault.portal = Some(self.index);
        self.shared.faults.inject(fault)
    }

    /// Moves the portal to a new address, which is answered; calls to the old one are sent there by 302.
    ///
    /// # Panics
    /// Where no port can be bound.
    pub fn rename(&self) -> String {
        let host = self.name();
        let host = host.split(':').next().unwrap_or("127.0.0.1");
        let name = self.listen(host, 0).expect("a free port on 127.0.0.1");
        self.change(|p| p.name.clone_from(&name));
        name
    }

    /// Connections to the current address are refused from now on.
    pub fn stop(&self) {
        if let Some(server) = self.shared.server(&self.name()) {
            server.stop();
        }
    }

    /// Undoes `stop`.
    pub fn start(&self) -> io::Result<()> {
        match self.shared.server(&self.name()) {
            Some(server) => server.start(),
            None => Ok(()),
        }
    }

    pub(crate) fn listen(&self, host: &str, port: u16) -> io::Result<String> {
        let https = self.read(|p| p.https);
        let tls = https.then(|| self.shared.tls.config.clone());
        let mut name = String::new();
        let server = Server::bind(port, tls, |address| {
            name = format!("{host}:{}", address.port());
            Arc::new(PortalService { portal: self.clone(), name: name.clone() })
        })?;
        lock(&self.shared.servers).push((name.clone(), Arc::new(server)));
        Ok(name)
    }

    /// The form of an event for the installation address; `ONAPPINSTALL` carries a new pair of user 1.
    pub fn event_form(&self, event: &str) -> String {
        self.event_form_of(event, 1)
    }

    pub fn event_form_of(&self, event: &str, user: u32) -> String {
        let mut fields: Vec<(String, String)> = vec![("event".to_owned(), event.to_owned())];
        let auth = |name: &str, value: &str| (format!("auth[{name}]"), value.to_owned());
        let now = self.shared.clock.now();
        fields.push(("data[VERSION]".to_owned(), "1".to_owned()));
        fields.push(("data[LANGUAGE_ID]".to_owned(), "ru".to_owned()));
        fields.push(("ts".to_owned(), (now as u64).to_string()));
        let (name, member_id, token) =
            self.read(|p| (p.name.clone(), p.member_id.clone(), p.application_token.clone()));
        if event == "ONAPPUNINSTALL" {
            fields.push(("data[CLEAN]".to_owned(), "1".to_owned()));
        } else {
            let pair = self.issue_pair(user);
            fields.push(auth("access_token", &pair.access_token));
            fields.push(auth("expires_in", &pair.expires_in.to_string()));
            fields.push(auth("refresh_token", &pair.refresh_token));
            fields.push(auth("scope", &pair.scope));
            fields.push(auth("server_endpoint", &pair.server_endpoint));
            fields.push(auth("status", &pair.status));
            fields.push(auth("client_endpoint", &pair.client_endpoint));
        }
        fields.push(auth("domain", &name));
        fields.push(auth("member_id", &member_id));
        fields.push(auth("application_token", &token));
        encode_pairs(&fields)
    }

    /// The form of an event with these fields below `data`, such as `[FIELDS][ID]`.
    pub fn report(&self, event: &str, data: &[(&str, &str)]) -> String {
        let mut fields = vec![("event".to_owned(), event.to_owned()), ("event_handler_id".to_owned(), "7".to_owned())];
        fields.extend(data.iter().map(|(name, value)| (format!("data{name}"), (*value).to_owned())));
        let (name, member_id, token) =
            self.read(|p| (p.name.clone(), p.member_id.clone(), p.application_token.clone()));
        let pair = self.issue_pair(1);
        fields.push(("ts".to_owned(), (self.shared.clock.now() as u64).to_string()));
        for (name, value) in [
            ("access_token", pair.access_token.as_str()),
            ("expires_in", "3600"),
            ("refresh_token", &pair.refresh_token),
            ("domain", &name),
            ("client_endpoint", &pair.client_endpoint),
            ("member_id", &member_id),
            ("application_token", &token),
        ] {
            fields.push((format!("auth[{name}]"), value.to_owned()));
        }
        encode_pairs(&fields)
    }

    /// Events and the addresses that they are posted to.
    pub fn handlers(&self) -> Vec<(String, String)> {
        self.read(|p| p.handlers.clone())
    }

    /// Another one, of an application that was removed and added again.
    pub fn set_application_token(&self, token: &str) {
        self.change(|p| {
            token.clone_into(&mut p.application_token);
            p.handlers.clear();
        });
    }

    /// Posts an event to an `http://` address, as Bitrix24's server does.
    pub fn post_event(&self, url: &str, event: &str) -> io::Result<HttpAnswer> {
        post_form(url, &self.event_form(event))
    }

    /// Posts any form to an `http://` address.
    pub fn post_form(&self, url: &str, form: &str) -> io::Result<HttpAnswer> {
        post_form(url, form)
    }

    /// What the browser posts when this user opens the application in Bitrix24, with a new pair.
    pub fn frame_form(&self, user: u32) -> FrameForm {
        frame_form(&self.shared, self.index, user)
    }
}

pub(crate) fn frame_form(shared: &Arc<Shared>, index: usize, user: u32) -> FrameForm {
    let portal = Portal { shared: shared.clone(), index };
    let pair = portal.issue_pair(user);
    let app_sid = random::hex(32);
    let protocol = portal.read(|p| u8::from(p.https)).to_string();
    let query = encode_pairs(&[
        ("DOMAIN", portal.name().as_str()),
        ("PROTOCOL", &protocol),
        ("LANG", "ru"),
        ("APP_SID", &app_sid),
    ]);
    let fields = [
        ("AUTH_ID", pair.access_token.clone()),
        ("AUTH_EXPIRES", pair.expires_in.to_string()),
        ("REFRESH_ID", pair.refresh_token.clone()),
        ("SERVER_ENDPOINT", pair.server_endpoint.clone()),
        ("APPLICATION_TOKEN", portal.application_token()),
        ("APPLICATION_SCOPE", pair.scope.clone()),
        ("member_id", pair.member_id.clone()),
        ("status", pair.status.clone()),
        ("PLACEMENT", "DEFAULT".to_owned()),
    ];
    FrameForm {
        query,
        body: encode_pairs(&fields),
        fields: fields.map(|(n, v)| (n.to_owned(), v)).to_vec(),
        app_sid,
        access_token: pair.access_token,
        refresh_token: pair.refresh_token,
    }
}

/// What answers at one of a portal's addresses.
struct PortalService {
    portal: Portal,
    name: String,
}

impl PortalService {
    /// Where the portal is now, if this is an address it has left.
    fn moved_to(&self) -> Option<String> {
        self.portal.read(|p| (p.name != self.name).then(|| p.url()))
    }
}

impl Service for PortalService {
    fn connected(&self) -> bool {
        let shared = &self.portal.shared;
        shared.ledger.connected(&self.name);
        shared.faults.connection(&Moment::Connection(self.portal.index))
    }

    fn streams(&self, request: &Request) -> bool {
        Route::of(&request.path).is_some_and(|route| rest::is_upload(&route, request))
    }

    fn answer_stream(&self, request: Request, body: &mut dyn Read) -> Reply {
        let (shared, index) = (&self.portal.shared, self.portal.index);
        let moved_to = self.moved_to();
        match Route::of(&request.path) {
            Some(route) => rest::answer_upload(shared, index, &self.name, &route, &request, body, moved_to.as_deref()),
            None => self.answer(request),
        }
    }

    fn answer(&self, request: Request) -> Reply {
        let (shared, index) = (&self.portal.shared, self.portal.index);
        let moved_to = self.moved_to();
        match (Route::of(&request.path), moved_to) {
            (Some(route), moved_to) => rest::answer(shared, index, &self.name, &route, &request, moved_to.as_deref()),
            (None, Some(url)) => {
                let now = shared.clock.now();
                let number = shared.ledger.begin(now, &self.name, &request, Kind::Other);
                let reply = Reply::redirect(&format!("{url}{}", request.target));
                shared.ledger.finish(number, &reply, Vec::new());
                reply
            }
            (None, None) => pages::answer(shared, index, &self.name, &request),
        }
    }

    fn wait(&self, wait: &Wait) -> bool {
        self.portal.shared.faults.wait(wait)
    }
}
