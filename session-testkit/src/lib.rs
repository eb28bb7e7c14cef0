//! session-testkit
