//! A server that died and came back: its old peers hear of it at once, not after the idle time.

use super::*;
use crate::Closed;

/// A server that keeps accepting in a runtime of its own, which can be ended without a word; `None`
/// while its address is taken.
fn server_that_can_die(
    config: ServerTransportConfig,
) -> Option<(tokio::runtime::Runtime, SocketAddr)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut listener = runtime
        .block_on(async { Listener::bind(config, budget()) })
        .ok()?;
    let address = listener.local_address().unwrap();
    runtime.spawn(async move {
        let mut links = Vec::new();
        while let Some(link) = listener.accept().await {
            links.push(link);
        }
    });
    Some((runtime, address))
}

#[test]
fn a_server_that_was_restarted_tells_its_old_peers_that_it_forgot_them() {
    let ca = ca();
    let mut config = server_config(server(&ca));
    let (first, address) = server_that_can_die(config.clone()).unwrap();
    let mut client = client_config(agent(&ca));
    client.tuning.keep_alive = Duration::from_millis(50);
    let own = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (connector, link) = own.block_on(async {
        let connector = Connector::bind(client, budget()).unwrap();
        let link = connector.connect(address, &named()).await.unwrap();
        (connector, link)
    });
    // Its tasks end where they stand: no packet says goodbye.
    first.shutdown_background();

    config.listen = address;
    let (second, _) = std::iter::repeat_with(|| {
        // The dead one's socket is closed when its last task is gone.
        std::thread::yield_now();
        server_that_can_die(config.clone())
    })
    .find_map(|started| started)
    .unwrap();
    // Without the reset this would be `TimedOut`, after the whole idle time.
    assert_eq!(own.block_on(link.closed()), Closed::Forgotten);
    drop(connector);
    second.shutdown_background();
}
