# Heroku and Dokku read this file before every command: `heroku run doorbell doctor`.
export PATH="$PATH:$HOME/deploy/bin"
