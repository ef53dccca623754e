//! Fetches small pages over HTTP: metrics, version, health.

use std::time::Duration;

use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::ServerName;

use super::error::{Class, Error, speaks_of_tls};
use super::exposition::{Page, Reading};
use super::material::Material;

/// Longest page that is read; a busy member's metrics stay below 1 MiB.
const MAX_PAGE: usize = 8 << 20;

/// What is read at once. Left alone, hyper takes hundreds of kilobytes for each member.
const BUFFER: usize = 16 << 10;

/// Fetches pages with the same trust as the gRPC connections.
#[derive(Clone)]
pub struct Pages {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// A fetched page.
pub struct Fetched {
    /// HTTP status.
    pub status: u16,
    /// Its `Date` header: the clock of the member's host, to the second.
    pub date: Option<DateTime<Utc>>,
    /// The body.
    pub body: String,
}

impl Pages {
    /// A client with the material of the configuration.
    pub fn new(endpoint: &str, material: &Material) -> Result<Pages, Error> {
        let config = material.client_config(endpoint)?;
        let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let builder = match material.server_name() {
            Some(name) => {
                let name = ServerName::try_from(name.to_owned()).map_err(|error| {
                    Error::new(Class::Tls, "metrics", endpoint, format!("etcd.tls.server_name: {error}"))
                })?;
                builder.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
            }
            None => builder,
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(Duration::from_secs(1)));
        let connector = builder.enable_http1().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1)
            .http1_max_buf_size(BUFFER)
            .build(connector);
        Ok(Pages { client })
    }

    /// GET `base` + `path`.
    pub async fn get(&self, base: &str, path: &str, deadline: Duration) -> Result<Fetched, Error> {
        let url = format!("{}{path}", base.trim_end_matches('/'));
        within(deadline, &url, async {
            let answer = self.ask(&url).await?;
            let (status, date) = (answer.status().as_u16(), date(&answer));
            let body = Limited::new(answer.into_body(), MAX_PAGE).collect().await;
            let body = body.map_err(|error| broke_off(&url, &error))?.to_bytes();
            Ok(Fetched { status, date, body: String::from_utf8_lossy(&body).into_owned() })
        })
        .await
    }

    async fn ask(&self, url: &str) -> Result<Response<Incoming>, Error> {
        let fail = |class: Class, text: String| Error::new(class, "GET", url, text);
        let uri = url.parse().map_err(|error| fail(Class::Local, format!("{error}")))?;
        self.client.get(uri).await.map_err(|error| {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            fail(if speaks_of_tls(&text) { Class::Tls } else { Class::Unavailable }, text)
        })
    }

    /// The metrics page below `base`, and the clock of its host.
    pub(super) async fn metrics(&self, base: &str, deadline: Duration) -> Result<(Page, Option<DateTime<Utc>>), Error> {
        let url = format!("{}/metrics", base.trim_end_matches('/'));
        within(deadline, &url, async {
            let answer = self.ask(&url).await?;
            if answer.status() != 200 {
                let text =
                    format!("HTTP {}; set etcd.metrics if metrics are served elsewhere", answer.status().as_u16());
                return Err(Error::new(Class::Unavailable, "GET", &url, text));
            }
            let (date, mut reading) = (date(&answer), Reading::default());
            let mut body = Limited::new(answer.into_body(), MAX_PAGE);
            while let Some(frame) = body.frame().await {
                if let Ok(piece) = frame.map_err(|error| broke_off(&url, &error))?.into_data() {
                    reading.take(&piece);
                }
            }
            let page = reading.finish().map_err(|text| Error::new(Class::Refused, "GET", &url, text))?;
            Ok((page, date))
        })
        .await
    }
}

async fn within<T>(deadline: Duration, url: &str, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(deadline, asked).await.unwrap_or_else(|_| Err(Error::deadline("GET", url, deadline)))
}

fn broke_off(url: &str, error: &impl std::fmt::Display) -> Error {
    Error::new(Class::Unavailable, "GET", url, format!("the page broke off: {error}"))
}

fn date(answer: &Response<Incoming>) -> Option<DateTime<Utc>> {
    let date = answer.headers().get(hyper::header::DATE)?.to_str().ok()?;
    DateTime::parse_from_rfc2822(date).ok().map(|date| date.with_timezone(&Utc))
}
