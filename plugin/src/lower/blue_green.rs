//! The strategy blueGreen from its flags.

use super::duration;
use crate::cli::BlueGreenArgs;
use crate::output::Refusal;
use upgrade_core::api::traffic::{GatewayApi, TrafficRouting};
use upgrade_core::api::upgrade::BlueGreen;

/// Longest delay that the API takes, in seconds.
const WEEK: u64 = 604_800;

/// The first of its flags that is given, where one is.
pub fn given(args: &BlueGreenArgs) -> Option<&'static str> {
    let flags = [
        (args.active_service.is_some(), "--active-service"),
        (args.preview_service.is_some(), "--preview-service"),
        (args.auto_promotion.is_some(), "--auto-promotion"),
        (args.auto_promotion_delay.is_some(), "--auto-promotion-delay"),
        (args.scale_down_delay.is_some(), "--scale-down-delay"),
        (args.preview_replicas.is_some(), "--preview-replicas"),
        (args.route.is_some(), "--route"),
    ];
    flags.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
}

/// Checks the flags.
pub fn lower(args: &BlueGreenArgs) -> Result<BlueGreen, Refusal> {
    let Some(active) = &args.active_service else {
        return Err(Refusal::usage(
            "--strategy blueGreen needs --active-service NAME: the Service whose clients are \
             switched to the new pods",
        )
        .hint(
            "kubectl upgrade start deploy/web --to v2 --strategy blueGreen --active-service web",
        ));
    };
    service(active, "--active-service")?;
    if let Some(preview) = &args.preview_service {
        service(preview, "--preview-service")?;
        if preview == active {
            return Err(Refusal::usage(format!(
                "--preview-service: `{preview}` is the active Service; leave the flag out, and one \
                 is made for the preview"
            )));
        }
    }
    let auto = args.auto_promotion.unwrap_or(true);
    if !auto && args.auto_promotion_delay.is_some() {
        return Err(Refusal::usage(
            "--auto-promotion-delay does nothing with --auto-promotion=false; leave one of them out",
        ));
    }
    let mut settings = BlueGreen {
        active_service: active.clone(),
        preview_service: args.preview_service.clone(),
        auto_promotion_enabled: auto,
        auto_promotion_seconds: seconds(
            args.auto_promotion_delay.as_deref(),
            "--auto-promotion-delay",
        )?,
        preview_replica_count: args.preview_replicas,
        traffic_routing: args.route.as_deref().map(route).transpose()?,
        ..BlueGreen::default()
    };
    if let Some(delay) = seconds(args.scale_down_delay.as_deref(), "--scale-down-delay")? {
        settings.scale_down_delay_seconds = delay;
    }
    Ok(settings)
}

/// The HTTPRoute of this name.
fn route(name: &str) -> Result<TrafficRouting, Refusal> {
    if name.is_empty() || name.contains('/') {
        let refusal = Refusal::usage(format!("--route: `{name}` is not the name of an HTTPRoute"));
        return Err(refusal.hint("its name alone: `kubectl get httproutes` shows them"));
    }
    let gateway_api = GatewayApi { http_route: Some(name.to_owned()), ..GatewayApi::default() };
    Ok(TrafficRouting { gateway_api: Some(gateway_api), ..TrafficRouting::default() })
}

fn service(name: &str, flag: &str) -> Result<(), Refusal> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| c != '-' && inner(c));
    let good = name.len() <= 63
        && name.chars().all(inner)
        && edge(name.chars().next())
        && edge(name.chars().last());
    if good {
        return Ok(());
    }
    let refusal = Refusal::usage(format!("{flag}: `{name}` is not the name of a Service"));
    Err(refusal.hint("its name alone, without `service/`: `kubectl get services` shows them"))
}

fn seconds(text: Option<&str>, flag: &str) -> Result<Option<i32>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let length = duration(text, flag)?.limit.unwrap_or_default();
    let whole = length.subsec_nanos() == 0 && length.as_secs() <= WEEK;
    match i32::try_from(length.as_secs()).ok().filter(|_| whole) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(Refusal::usage(format!(
            "{flag}: `{text}` is not a number of whole seconds up to a week"
        ))),
    }
}
