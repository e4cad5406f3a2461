"""`python -m rushes.integrations.musubi <script> <arguments>`."""

from rushes.integrations.musubi.launcher import main

raise SystemExit(main())
