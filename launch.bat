@echo off
rem Finds a Python and hands everything over to webui\bootstrap.py. launch.bat --help lists what it can do.
setlocal DisableDelayedExpansion
set "ROOT=%~dp0"
set "FITS=import sys; from importlib.util import find_spec as f; sys.exit(not (sys.version_info >= (3, 10) and f('ensurepip')))"

rem -I keeps the environment and the folder of bootstrap.py out of the import path.
if defined PYTHON set "PY="%PYTHON%"" & goto start
set "PY="%ROOT%.venv\Scripts\python.exe""
%PY% -I -c "%FITS%" >nul 2>nul && goto start
set "PY=py -3"
%PY% -I -c "%FITS%" >nul 2>nul && goto start
set "PY=python"
%PY% -I -c "%FITS%" >nul 2>nul && goto start

echo Galatea needs Python 3.10 or newer, and none was found. Install it from python.org/downloads>&2
echo (tick "Add python.exe to PATH"), then run launch.bat again.>&2
exit /b 1

:start
%PY% -I "%ROOT%webui\bootstrap.py" %*
exit /b %ERRORLEVEL%
