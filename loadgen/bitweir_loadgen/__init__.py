"""Campaigns, forecasts and reports, and the root of the `bitweir` command."""
