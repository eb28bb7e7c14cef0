//! session-layer
