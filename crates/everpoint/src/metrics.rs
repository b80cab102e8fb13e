//! Prometheus metrics over HTTP.

use std::net::SocketAddr;

use metrics_exporter_prometheus::PrometheusBuilder;

use crate::failure::{Code, Failure};

/// Serves metrics from now on. Everything that is counted before is lost.
///
/// # Errors
///
/// When the address cannot be listened on.
pub(crate) fn listen(address: SocketAddr) -> Result<(), Failure> {
    let installed = PrometheusBuilder::new()
        .with_http_listener(address)
        .install();
    installed.map_err(|error| {
        Failure::of(Code::Failed, &error)
            .while_doing(format!("metrics_listen {address}"))
            .help("set another address, or leave metrics_listen out")
    })
}
